//! From the samples of a cell to its row.

use std::{collections::HashMap, time::Duration};

use defender_testbed::{
    statistics::{extremes, median},
    tcp_info::TcpInfo,
};

use super::{
    Level,
    measure::{Cell, Half, Sample},
    rates::Best,
};

/// A number that was measured in several rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) cell: Cell,
    /// Share of the time in which the processor ran at full speed, 0 to 1. All else is of that time.
    pub(crate) full_speed: Figure,
    /// SYNs of the flood, per second: sent, taken by the server end, answered.
    pub(crate) offered: Figure,
    pub(crate) taken: Figure,
    pub(crate) answered: Figure,
    /// Processor time at the server end for each packet taken, in nanoseconds.
    pub(crate) nanoseconds: Figure,
    /// What short times of all rounds reach when nothing disturbs, at full load.
    pub(crate) best: Option<Best>,
    /// Clients of all rounds that came at full speed, and those who succeeded.
    pub(crate) attempts: usize,
    pub(crate) succeeded: usize,
    /// Share of clients that succeeded in each round, 0 to 1.
    pub(crate) success: Figure,
    /// How long handshakes took, in microseconds; nothing if none succeeded.
    pub(crate) p50: Option<Figure>,
    pub(crate) p99: Option<Figure>,
    /// What connections kept of the options they asked for; nothing if there were none.
    pub(crate) kept_linux: Option<Kept>,
    pub(crate) kept_windows: Option<Kept>,
    /// What the defender counted last.
    pub(crate) defender: Option<serde_json::Value>,
    /// Round by round, for ratios between rows.
    pub(crate) rounds: Vec<Round>,
}

/// What one round had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// SYNs answered per second.
    pub(crate) answered: f64,
    /// Share of clients that succeeded, 0 to 1.
    pub(crate) success: f64,
    /// The slowest hundredth of handshakes, in microseconds; nothing if none succeeded.
    pub(crate) p99: Option<f64>,
}

/// Shares of connections, 0 to 1, that kept an option, as the server's kernel sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// All of the following, and timestamps just where the client uses them.
    pub(crate) all: f64,
    /// Selective acknowledgements.
    pub(crate) sack: f64,
    /// Window scaling, and both ends agree on both scales.
    pub(crate) window_scaling: f64,
    /// The client's MSS.
    pub(crate) mss: f64,
}

/// Whether one connection kept an option.
struct Agreement {
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    mss: bool,
}

impl Row {
    /// Sums the samples up.
    pub(super) fn new(cell: Cell, mut samples: Vec<Sample>) -> Self {
        let figure = |number: fn(&Sample) -> f64| Figure::of(&samples.iter().map(number).collect::<Vec<_>>());
        let clients: Vec<_> = samples.iter().map(Sample::clients).collect();
        let rounds = samples.iter().zip(&clients).map(|(sample, clients)| Round {
            answered: sample.rates.answered,
            success: clients.success(),
            p99: clients.connect_percentile(0.99).map(micros),
        });
        let rounds: Vec<_> = rounds.collect();
        let percentile = |p| {
            let times = clients.iter().filter_map(|clients| clients.connect_percentile(p));
            let times: Vec<_> = times.map(micros).collect();
            (!times.is_empty()).then(|| Figure::of(&times))
        };
        Self {
            cell,
            full_speed: figure(|sample| sample.full_speed),
            offered: figure(|sample| sample.rates.offered),
            taken: figure(|sample| sample.rates.taken),
            answered: figure(|sample| sample.rates.answered),
            nanoseconds: figure(|sample| sample.rates.nanoseconds),
            best: (cell.level == Level::Full).then(|| best(&samples)).flatten(),
            attempts: clients.iter().map(|clients| clients.clients.len()).sum(),
            succeeded: clients.iter().map(|clients| clients.greeted().count()).sum(),
            success: Figure::of(&rounds.iter().map(|round| round.success).collect::<Vec<_>>()),
            p50: percentile(0.5),
            p99: percentile(0.99),
            kept_linux: Kept::of(samples.iter().map(|sample| &sample.linux), true),
            kept_windows: Kept::of(samples.iter().map(|sample| &sample.windows), false),
            defender: samples.pop().and_then(|sample| sample.defender),
            rounds,
        }
    }

    /// Share of the clients of all rounds that succeeded, 0 to 1.
    pub(crate) fn pooled_success(&self) -> f64 {
        self.succeeded as f64 / self.attempts.max(1) as f64
    }
}

fn best(samples: &[Sample]) -> Option<Best> {
    Best::of(&samples.iter().flat_map(|sample| sample.short.clone()).collect::<Vec<_>>())
}

impl Round {
    /// A number of each round in that of another row's same round. Rows take turns within a round, so a machine that slows
    /// down for a while slows both. Rounds in which the other has none, or an infinite one, are left out.
    pub(crate) fn ratio(own: &[Self], other: &[Self], number: fn(&Self) -> f64) -> Option<Figure> {
        let pairs = own.iter().zip(other).map(|(own, other)| (number(own), number(other)));
        let ratios: Vec<_> =
            pairs.filter(|(_, other)| other.is_normal()).map(|(own, other)| own / other).collect();
        (!ratios.is_empty()).then(|| Figure::of(&ratios))
    }
}

impl Figure {
    /// Of some values; zeroes if there are none.
    pub(crate) fn of(values: &[f64]) -> Self {
        let (least, most) = extremes(values).unwrap_or_default();
        Self { median: median(values).unwrap_or_default(), least, most }
    }

    /// In another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, least: self.least * factor, most: self.most * factor }
    }
}

impl Kept {
    /// Compares what both ends know of each connection that the client calls a success.
    fn of<'a>(halves: impl Iterator<Item = &'a Half>, timestamps: bool) -> Option<Self> {
        let agreements: Vec<_> = halves.flat_map(agreements).collect();
        let share = |kept: fn(&Agreement) -> bool| {
            agreements.iter().filter(|agreement| kept(agreement)).count() as f64 / agreements.len() as f64
        };
        let stamped = agreements.iter().filter(|agreement| agreement.timestamps == timestamps);
        let all =
            stamped.filter(|agreement| agreement.sack && agreement.window_scaling && agreement.mss).count();
        (!agreements.is_empty()).then(|| Self {
            all: all as f64 / agreements.len() as f64,
            sack: share(|agreement| agreement.sack),
            window_scaling: share(|agreement| agreement.window_scaling),
            mss: share(|agreement| agreement.mss),
        })
    }
}

fn agreements(half: &Half) -> Vec<Agreement> {
    let accepted: HashMap<_, _> =
        half.accepted.iter().map(|accepted| (accepted.peer, accepted.info)).collect();
    let pairs = half.clients.greeted().filter_map(|client| Some((client, accepted.get(&client.address)?)));
    pairs.map(|(client, server)| Agreement::of(&client.info, server)).collect()
}

impl Agreement {
    fn of(client: &TcpInfo, server: &TcpInfo) -> Self {
        let scales_agree =
            client.send_scale == server.receive_scale && client.receive_scale == server.send_scale;
        Self {
            timestamps: server.timestamps,
            sack: server.sack && client.sack,
            window_scaling: server.window_scaling && client.window_scaling && scales_agree,
            // The kernel takes timestamps off both.
            mss: server.send_mss == client.advertised_mss,
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_of_both_changes_no_ratio() {
        let rounds =
            |answered: [f64; 3]| answered.map(|answered| Round { answered, success: 1.0, p99: None });
        let (own, other) = (rounds([96.0, 98.0, 40.0]), rounds([100.0, 100.0, 50.0]));
        let ratio = Round::ratio(&own, &other, |round| round.answered).unwrap();
        assert_eq!([ratio.least, ratio.median, ratio.most], [0.8, 0.96, 0.98]);
        let never = Round::ratio(&own, &other, |round| round.p99.unwrap_or(f64::INFINITY));
        assert!(never.is_none());
        assert!(Round::ratio(&own, &rounds([0.0; 3]), |round| round.answered).is_none());
    }
}
