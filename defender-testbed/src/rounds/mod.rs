//! Rounds: each defence against each flood, repeated in turn, and the effect on clients.

mod defence;
mod learnt;
mod measure;
mod rates;
mod readings;
mod spent;
mod summary;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use defender_testbed::{
    cpu::{self, Undisturbed},
    programs::Program,
    topology::{Options, Topology},
};

pub(crate) use defence::{Defence, FloodLevel};
use learnt::Learnt;
pub(crate) use measure::{Cell, Sample};
pub(crate) use readings::during;
pub(crate) use summary::{DefenceRow, Figure, KeptOptions, RoundFigures};

/// The processor for polling the server end, and for server and clients, which need little of it. The
/// source has the last processor to itself.
const SERVER_CPU: usize = 0;

/// What to measure.
#[derive(Debug)]
pub(crate) struct RoundsPlan {
    /// The controller to start.
    pub(crate) defender: Option<PathBuf>,
    /// How long clients connect in each measurement, in seconds.
    pub(crate) seconds: f64,
    /// Number of rounds.
    pub(crate) rounds: u32,
    /// Clients per second.
    pub(crate) clients: f64,
    /// How long clients connect without a flood first, so that the defender in mode `auto` learns its
    /// baseline.
    pub(crate) watched: Option<Duration>,
    /// The turns: each defence is set up, meets its floods one after the other, and is removed again.
    pub(crate) turns: Vec<DefenceTurn>,
}

/// A defence and the floods it meets in one go.
#[derive(Clone, Debug)]
pub(crate) struct DefenceTurn {
    pub(crate) defence: Defence,
    pub(crate) levels: Vec<FloodLevel>,
}

/// Measures everything and reports each measurement.
pub(crate) fn run(plan: &RoundsPlan, progress: impl Fn(u32, Cell, &Sample)) -> Result<Vec<DefenceRow>> {
    let _undisturbed = Undisturbed::new();
    cpu::prioritise(0)?;
    let bed = topology()?;
    let learns = plan.turns.iter().any(|turn| turn.defence == Defence::Auto);
    let watched = plan.watched.filter(|_| learns);
    let learnt = watched.map(|duration| Learnt::without_flood(&bed, plan, duration)).transpose()?;
    let mut samples: Vec<Vec<(Cell, Vec<Sample>)>> =
        plan.turns.iter().map(|turn| turn.cells().map(|cell| (cell, Vec::new())).collect()).collect();
    for round in 1..=plan.rounds {
        for (turn, cells) in plan.turns.iter().zip(&mut samples) {
            let standing = turn.defence.set_up(&bed, plan, learnt.as_ref())?;
            for (cell, samples) in cells {
                let sample = cell.measure(&bed, plan, &standing)?;
                progress(round, *cell, &sample);
                samples.push(sample);
            }
        }
    }
    Ok(samples.into_iter().flatten().map(|(cell, samples)| DefenceRow::new(cell, samples)).collect())
}

impl RoundsPlan {
    /// How many measurements there will be.
    pub(crate) fn measurements(&self) -> usize {
        self.turns.iter().map(|turn| turn.levels.len()).sum::<usize>() * self.rounds as usize
    }
}

impl DefenceTurn {
    fn cells(&self) -> impl Iterator<Item = Cell> {
        self.levels.iter().map(|level| Cell { defence: self.defence, level: *level })
    }
}

/// The link's two ends: the server's polled by its own processor, and the client's, which discards answers.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options {
        client_end: Some(Program::Absorb),
        server_cpu: Some(SERVER_CPU),
        urgent: true,
        ..Options::default()
    })
}
