//! Rounds: each defence against each flood, again and again by turns, and what clients see of it.

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

pub(crate) use defence::{Defence, Level};
use learnt::Learnt;
pub(crate) use measure::{Cell, Sample};
pub(crate) use readings::during;
pub(crate) use summary::{Figure, Kept, Round, Row};

/// Where the server end is polled and where server and clients run; they need little of it. The source has the last
/// processor to itself.
const SERVER_CPU: usize = 0;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The controller to start.
    pub(crate) defender: Option<PathBuf>,
    /// How long clients come in each measurement, in seconds.
    pub(crate) seconds: f64,
    /// How often everything is measured.
    pub(crate) rounds: u32,
    /// Clients per second.
    pub(crate) clients: f64,
    /// For how long clients come in calm before, so that the defender in mode `auto` knows what is usual.
    pub(crate) watched: Option<Duration>,
    /// Who takes turns: each is set up, meets these floods one after the other, and is taken away again.
    pub(crate) turns: Vec<Turn>,
}

/// A defence and the floods that it meets in one go.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) defence: Defence,
    pub(crate) levels: Vec<Level>,
}

/// Measures everything and tells of each measurement.
pub(crate) fn run(plan: &Plan, progress: impl Fn(u32, Cell, &Sample)) -> Result<Vec<Row>> {
    let _undisturbed = Undisturbed::new();
    cpu::prioritise(0)?;
    let bed = topology()?;
    let learns = plan.turns.iter().any(|turn| turn.defence == Defence::Auto);
    let watched = plan.watched.filter(|_| learns);
    let learnt = watched.map(|duration| Learnt::in_calm(&bed, plan, duration)).transpose()?;
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
    Ok(samples.into_iter().flatten().map(|(cell, samples)| Row::new(cell, samples)).collect())
}

impl Turn {
    fn cells(&self) -> impl Iterator<Item = Cell> {
        self.levels.iter().map(|level| Cell { defence: self.defence, level: *level })
    }
}

/// The two ends of the link: the server's polled by a processor of its own, the client's taking answers away.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options {
        client_end: Some(Program::Absorb),
        server_cpu: Some(SERVER_CPU),
        urgent: true,
        ..Options::default()
    })
}
