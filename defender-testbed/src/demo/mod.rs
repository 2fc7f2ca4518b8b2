//! The demo: the same flood against each defence, and what clients see of it.

mod defence;
mod format;
mod measure;
mod output;
mod summary;
mod words;

use std::path::PathBuf;

use anyhow::Result;
use defender_testbed::{
    cpu::{self, Undisturbed},
    programs::Program,
    topology::{Options, Topology},
};

pub(crate) use defence::{Defence, Level};
pub(crate) use output::{json, print};
pub(crate) use summary::Row;

use measure::{Cell, Sample};

/// Where the server end is polled and where server and clients run; they need little of it. The source has the last
/// processor to itself.
const SERVER_CPU: usize = 0;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The controller; its rows are left out without.
    pub(crate) defender: Option<PathBuf>,
    /// How long clients come in each measurement, in seconds.
    pub(crate) seconds: f64,
    /// How often everything is measured.
    pub(crate) rounds: u32,
    /// SYNs per second of the moderate flood.
    pub(crate) rate: u64,
    /// Clients per second.
    pub(crate) clients: f64,
    /// Only these defences; all if empty.
    pub(crate) only: Vec<Defence>,
}

impl Plan {
    /// The defences to measure, in the order of the table.
    fn defences(&self) -> Vec<Defence> {
        let wanted = |defence: &Defence| self.only.is_empty() || self.only.contains(defence);
        let possible = |defence: &Defence| !defence.needs_controller() || self.defender.is_some();
        Defence::ALL.into_iter().filter(wanted).filter(possible).collect()
    }

    /// The cells of the table, in its order.
    fn cells(&self) -> Vec<Cell> {
        self.defences()
            .into_iter()
            .flat_map(|defence| defence.levels().iter().map(move |level| Cell { defence, level: *level }))
            .collect()
    }
}

/// Measures everything; progress goes to the standard error.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let _undisturbed = Undisturbed::new();
    cpu::prioritise(0)?;
    let bed = Topology::with(&Options {
        client_end: Some(Program::Absorb),
        server_cpu: Some(SERVER_CPU),
        urgent: true,
        ..Options::default()
    })?;
    let mut samples: Vec<(Cell, Vec<Sample>)> =
        plan.cells().into_iter().map(|cell| (cell, Vec::new())).collect();
    for round in 1..=plan.rounds {
        for defence in plan.defences() {
            let standing = defence.set_up(&bed, plan)?;
            for (cell, samples) in samples.iter_mut().filter(|(cell, _)| cell.defence == defence) {
                let sample = cell.measure(&bed, plan, &standing)?;
                eprintln!("round {round} of {}: {cell}: {}", plan.rounds, output::progress(&sample));
                samples.push(sample);
            }
        }
    }
    Ok(samples.into_iter().map(|(cell, samples)| Row::new(cell, samples)).collect())
}
