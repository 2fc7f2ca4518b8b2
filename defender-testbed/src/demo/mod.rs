//! The demo: the same flood against each defence, and what clients see of it.

mod output;
mod words;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use crate::rounds::Defence;
pub(crate) use output::{json, print};

use crate::rounds::{self, Level, Row, Turn};

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
    /// Only these defences; those of [`SHOWN`] if empty.
    pub(crate) only: Vec<Defence>,
}

/// The defences of the table, in its order.
const SHOWN: [Defence; 6] =
    [Defence::Undefended, Defence::Cookies, Defence::Defender, Defence::Auto, Defence::Drop, Defence::Swap];

impl Plan {
    /// Each defence of the table, in its order.
    fn turns(&self) -> Vec<Turn> {
        let wanted = if self.only.is_empty() { &SHOWN[..] } else { &self.only };
        let possible = |defence: &&Defence| !defence.needs_controller() || self.defender.is_some();
        let turn = |defence: &Defence| Turn { defence: *defence, levels: self.levels(*defence) };
        wanted.iter().filter(possible).map(turn).collect()
    }

    /// The floods that a defence meets. Swapping is a ceiling for answers only: at any rate it answers everything.
    fn levels(&self, defence: Defence) -> Vec<Level> {
        match defence {
            Defence::Swap => vec![Level::Full],
            _ => vec![Level::Calm, Level::Paced(self.rate), Level::Full],
        }
    }
}

/// Measures everything; progress goes to the standard error.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let rounds = rounds::Plan {
        defender: plan.defender.clone(),
        seconds: plan.seconds,
        rounds: plan.rounds,
        clients: plan.clients,
        watched: None,
        turns: plan.turns(),
    };
    rounds::run(&rounds, |round, cell, sample| {
        eprintln!("round {round} of {}: {cell}: {}", plan.rounds, output::progress(sample));
    })
}
