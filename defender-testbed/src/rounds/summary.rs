//! Aggregates the samples of a cell into its row.

use std::{collections::HashMap, time::Duration};

use defender_testbed::{
    statistics::{extremes, median},
    tcp_info::TcpInfo,
};

use super::{
    FloodLevel,
    measure::{Cell, Half, Sample},
    rates::Best,
};

/// A value measured in several rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct DefenceRow {
    pub(crate) cell: Cell,
    /// Share of the time in which the processor ran at full speed, 0 to 1. All other values are from that
    /// time.
    pub(crate) full_speed: Figure,
    /// SYNs of the flood per second: sent, received by the server end, answered.
    pub(crate) offered: Figure,
    pub(crate) taken: Figure,
    pub(crate) answered: Figure,
    /// Processor time at the server end for each packet received, in nanoseconds.
    pub(crate) nanoseconds: Figure,
    /// What short intervals of all rounds reach when undisturbed, at full load.
    pub(crate) best: Option<Best>,
    /// Clients of all rounds that connected at full speed, and how many succeeded.
    pub(crate) attempts: usize,
    pub(crate) succeeded: usize,
    /// Share of clients that succeeded in each round, 0 to 1.
    pub(crate) success: Figure,
    /// Duration of handshakes in microseconds, or `None` if none succeeded.
    pub(crate) p50: Option<Figure>,
    pub(crate) p99: Option<Figure>,
    /// Which requested options connections kept, or `None` if there were none.
    pub(crate) kept_linux: Option<KeptOptions>,
    pub(crate) kept_windows: Option<KeptOptions>,
    /// The defender's last counters.
    pub(crate) defender: Option<serde_json::Value>,
    /// By round, for ratios between rows.
    pub(crate) rounds: Vec<RoundFigures>,
}

/// The values of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundFigures {
    /// SYNs answered per second.
    pub(crate) answered: f64,
    /// Share of clients that succeeded, 0 to 1.
    pub(crate) success: f64,
    /// The slowest hundredth of handshakes in microseconds, or `None` if none succeeded.
    pub(crate) p99: Option<f64>,
}

/// Shares of connections, 0 to 1, that kept an option, according to the server's kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptOptions {
    /// All of the following, and timestamps exactly where the client uses them.
    pub(crate) all: f64,
    /// Selective acknowledgements.
    pub(crate) sack: f64,
    /// Window scaling, with both ends agreeing on both scales.
    pub(crate) window_scaling: f64,
    /// The client's MSS.
    pub(crate) mss: f64,
}

/// Whether one connection kept each option.
struct Agreement {
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    mss: bool,
}

impl DefenceRow {
    /// Aggregates the samples.
    pub(super) fn new(cell: Cell, mut samples: Vec<Sample>) -> Self {
        let figure = |number: fn(&Sample) -> f64| Figure::of(&samples.iter().map(number).collect::<Vec<_>>());
        let clients: Vec<_> = samples.iter().map(Sample::clients).collect();
        let rounds = samples.iter().zip(&clients).map(|(sample, clients)| RoundFigures {
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
            best: (cell.level == FloodLevel::Full).then(|| best(&samples)).flatten(),
            attempts: clients.iter().map(|clients| clients.clients.len()).sum(),
            succeeded: clients.iter().map(|clients| clients.greeted().count()).sum(),
            success: Figure::of(&rounds.iter().map(|round| round.success).collect::<Vec<_>>()),
            p50: percentile(0.5),
            p99: percentile(0.99),
            kept_linux: KeptOptions::of(samples.iter().map(|sample| &sample.linux), true),
            kept_windows: KeptOptions::of(samples.iter().map(|sample| &sample.windows), false),
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

impl RoundFigures {
    /// A value of each round as a ratio to the same round of another row. Rows take turns within a round,
    /// so a temporary slowdown affects both. Rounds in which the other has no value, or an infinite one,
    /// are left out.
    pub(crate) fn ratio(own: &[Self], other: &[Self], number: fn(&Self) -> f64) -> Option<Figure> {
        let pairs = own.iter().zip(other).map(|(own, other)| (number(own), number(other)));
        let ratios: Vec<_> =
            pairs.filter(|(_, other)| other.is_normal()).map(|(own, other)| own / other).collect();
        (!ratios.is_empty()).then(|| Figure::of(&ratios))
    }
}

impl Figure {
    /// From some values. Zeros if there are none.
    pub(crate) fn of(values: &[f64]) -> Self {
        let (least, most) = extremes(values).unwrap_or_default();
        Self { median: median(values).unwrap_or_default(), least, most }
    }

    /// In another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, least: self.least * factor, most: self.most * factor }
    }
}

impl KeptOptions {
    /// Compares both ends' view of each connection that the client counts as a success.
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
            // The kernel subtracts the timestamps' length from both.
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
            |answered: [f64; 3]| answered.map(|answered| RoundFigures { answered, success: 1.0, p99: None });
        let (own, other) = (rounds([96.0, 98.0, 40.0]), rounds([100.0, 100.0, 50.0]));
        let ratio = RoundFigures::ratio(&own, &other, |round| round.answered).unwrap();
        assert_eq!([ratio.least, ratio.median, ratio.most], [0.8, 0.96, 0.98]);
        let never = RoundFigures::ratio(&own, &other, |round| round.p99.unwrap_or(f64::INFINITY));
        assert!(never.is_none());
        assert!(RoundFigures::ratio(&own, &rounds([0.0; 3]), |round| round.answered).is_none());
    }
}
