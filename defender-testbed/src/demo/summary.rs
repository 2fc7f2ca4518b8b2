//! From the samples of a cell to its row.

use std::time::Duration;

use defender_testbed::{
    statistics::{extremes, median},
    tcp_info::TcpInfo,
};

use super::measure::{Cell, Sample};

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
    /// SYNs of the flood, per second: sent, taken by the server end, answered.
    pub(crate) offered: Figure,
    pub(crate) taken: Figure,
    pub(crate) answered: Figure,
    /// Clients of all rounds, and those who succeeded.
    pub(crate) attempts: u32,
    pub(crate) succeeded: u32,
    /// Share of clients that succeeded in each round, 0 to 1.
    pub(crate) success: Figure,
    /// How long handshakes took, in microseconds; nothing if none succeeded.
    pub(crate) p50: Option<Figure>,
    pub(crate) p99: Option<Figure>,
    /// Share of the accepted connections, 0 to 1, that kept each option; nothing if none was accepted.
    pub(crate) kept: Option<Kept>,
    /// What the defender counted last.
    pub(crate) defender: Option<serde_json::Value>,
}

/// Shares of connections that have an option, as the server's kernel sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) all: f64,
    pub(crate) timestamps: f64,
    pub(crate) sack: f64,
    pub(crate) window_scaling: f64,
}

impl Row {
    /// Sums the samples up.
    pub(super) fn new(cell: Cell, mut samples: Vec<Sample>) -> Self {
        let figure = |number: fn(&Sample) -> f64| Figure::of(&samples.iter().map(number).collect::<Vec<_>>());
        let percentile = |p| {
            let times = samples.iter().filter_map(|sample| sample.clients.connect_percentile(p));
            let times: Vec<_> = times.map(micros).collect();
            (!times.is_empty()).then(|| Figure::of(&times))
        };
        Self {
            cell,
            offered: figure(|sample| sample.offered),
            taken: figure(|sample| sample.taken),
            answered: figure(|sample| sample.answered),
            attempts: samples.iter().map(|sample| sample.clients.attempts).sum(),
            succeeded: samples.iter().map(|sample| sample.clients.connect_times.len() as u32).sum(),
            success: figure(|sample| sample.clients.success()),
            p50: percentile(0.5),
            p99: percentile(0.99),
            kept: Kept::of(&samples),
            defender: samples.pop().and_then(|sample| sample.defender),
        }
    }

    /// Share of the clients of all rounds that succeeded, 0 to 1.
    pub(super) fn pooled_success(&self) -> f64 {
        f64::from(self.succeeded) / f64::from(self.attempts.max(1))
    }
}

impl Figure {
    fn of(values: &[f64]) -> Self {
        let (least, most) = extremes(values).unwrap_or_default();
        Self { median: median(values).unwrap_or_default(), least, most }
    }
}

impl Kept {
    fn of(samples: &[Sample]) -> Option<Self> {
        let infos: Vec<TcpInfo> =
            samples.iter().flat_map(|sample| &sample.accepted).map(|accepted| accepted.info).collect();
        let share = |has: fn(&TcpInfo) -> bool| {
            infos.iter().filter(|info| has(info)).count() as f64 / infos.len() as f64
        };
        (!infos.is_empty()).then(|| Self {
            all: share(TcpInfo::has_all_options),
            timestamps: share(|info| info.timestamps),
            sack: share(|info| info.sack),
            window_scaling: share(|info| info.window_scaling),
        })
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
