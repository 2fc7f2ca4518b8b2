//! The demo: the same flood against each defence, and its effect on clients.

mod output;
mod words;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use crate::rounds::Defence;
pub(crate) use output::{json, print};

use crate::{
    progress::Progress,
    rounds::{self, DefenceRow, DefenceTurn, FloodLevel},
};

/// What to measure.
#[derive(Debug)]
pub(crate) struct DemoPlan {
    /// The controller. Without it, its rows are omitted.
    pub(crate) defender: Option<PathBuf>,
    /// How long clients connect in each measurement, in seconds.
    pub(crate) seconds: f64,
    /// Number of rounds.
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

impl DemoPlan {
    /// Each defence of the table, in its order.
    fn turns(&self) -> Vec<DefenceTurn> {
        let wanted = if self.only.is_empty() { &SHOWN[..] } else { &self.only };
        let possible = |defence: &&Defence| !defence.needs_controller() || self.defender.is_some();
        let turn = |defence: &Defence| DefenceTurn { defence: *defence, levels: self.levels(*defence) };
        wanted.iter().filter(possible).map(turn).collect()
    }

    /// The floods for a defence. Swapping is a ceiling for answers only: at any rate it answers everything.
    fn levels(&self, defence: Defence) -> Vec<FloodLevel> {
        match defence {
            Defence::Swap => vec![FloodLevel::Full],
            _ => vec![FloodLevel::NoFlood, FloodLevel::Paced(self.rate), FloodLevel::Full],
        }
    }
}

/// Measures everything. Progress goes to standard error.
pub(crate) fn run(plan: &DemoPlan) -> Result<Vec<DefenceRow>> {
    let rounds = rounds::RoundsPlan {
        defender: plan.defender.clone(),
        seconds: plan.seconds,
        rounds: plan.rounds,
        clients: plan.clients,
        watched: None,
        turns: plan.turns(),
    };
    let progress = Progress::of("demo", rounds.measurements());
    rounds::run(&rounds, |round, cell, sample| {
        progress.step(&format!("round {round} of {}: {cell}: {}", plan.rounds, output::progress(sample)));
    })
}
