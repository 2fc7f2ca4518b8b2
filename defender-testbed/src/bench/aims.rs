//! The aims for whole connections, and the results.

use super::{
    BenchReport,
    bulk::{Between, Bulk},
};
use crate::rounds::{Defence, DefenceRow, Figure, FloodLevel, RoundFigures};

/// The flood for judging clients' success and handshakes.
const JUDGED_AT: FloodLevel = FloodLevel::Paced(200_000);

/// An aim.
pub(super) struct Aim {
    /// What is measured.
    pub(super) what: String,
    /// The result, by round.
    pub(super) found: Figure,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// The target value.
    pub(super) fn aim(&self) -> f64 {
        match self.bound {
            Bound::AtLeast(aim) | Bound::AtMost(aim) => aim,
        }
    }

    /// Whether it is met.
    pub(super) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(aim) => self.found.median >= aim,
            Bound::AtMost(aim) => self.found.median <= aim,
        }
    }
}

/// Every aim with a measurement.
pub(super) fn all(report: &BenchReport) -> Vec<Aim> {
    let mut aims: Vec<_> = [Defence::Auto, Defence::Defender]
        .into_iter()
        .flat_map(|defence| of(defence, &report.end_to_end))
        .collect();
    aims.extend(of_bulk(&report.bulk));
    aims
}

fn of(defence: Defence, rows: &[DefenceRow]) -> Vec<Aim> {
    let find =
        |defence, level| rows.iter().find(|row| row.cell.defence == defence && row.cell.level == level);
    let own = |level| find(defence, level);
    let aim = |what: &str, found: Option<Figure>, bound| {
        Some(Aim { what: format!("{}: {what}", defence.title()), found: found?, bound })
    };
    let ratio = |own: Option<&DefenceRow>, other: Option<&DefenceRow>, number| {
        RoundFigures::ratio(&own?.rounds, &other?.rounds, number)
    };
    let full = own(FloodLevel::Full);
    [
        aim(
            "answers at full speed, in those of a bare swap",
            ratio(full, find(Defence::Swap, FloodLevel::Full), |round| round.answered),
            Bound::AtLeast(0.96),
        ),
        aim(
            "microseconds of processor time a packet at full speed",
            full.map(|row| row.nanoseconds.times(0.001)),
            Bound::AtMost(0.30),
        ),
        aim(
            "clients that get through at 200k/s, in those of dropping by address",
            success(own(JUDGED_AT), find(Defence::Drop, JUDGED_AT)),
            Bound::AtLeast(0.999),
        ),
        aim(
            "p99 of handshakes at 200k/s, in those without a flood",
            // If no client gets through, the slowest one never finishes.
            ratio(own(JUDGED_AT), own(FloodLevel::NoFlood), |round| round.p99.unwrap_or(f64::INFINITY)),
            Bound::AtMost(1.2),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The clients of all rounds together: the number lost counts, however they are spread.
fn success(own: Option<&DefenceRow>, other: Option<&DefenceRow>) -> Option<Figure> {
    let (own, other) = (own?, other?);
    let by_round = RoundFigures::ratio(&own.rounds, &other.rounds, |round| round.success)?;
    Some(Figure { median: own.pooled_success() / other.pooled_success(), ..by_round })
}

fn of_bulk(bulk: &[Bulk]) -> Option<Aim> {
    let unflooded = |between| bulk.iter().find(|bulk| bulk.between == between && !bulk.flooded);
    let (own, pass) = (unflooded(Between::Defender)?, unflooded(Between::Pass)?);
    let what = "bulk data without a flood, in what a program that passes lets through".to_owned();
    let ratios: Vec<_> = own.rates.iter().zip(&pass.rates).map(|(own, pass)| own / pass).collect();
    Some(Aim { what, found: Figure::of(&ratios), bound: Bound::AtLeast(0.98) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_met_where_they_are_reached() {
        let aim = |found, bound| Aim { what: String::new(), found: Figure::of(&[found]), bound };
        assert!(aim(0.96, Bound::AtLeast(0.96)).is_met() && !aim(0.95, Bound::AtLeast(0.96)).is_met());
        assert!(aim(0.3, Bound::AtMost(0.3)).is_met() && !aim(0.31, Bound::AtMost(0.3)).is_met());
    }
}
