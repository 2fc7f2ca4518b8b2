//! `defender-testbed soak`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;

use crate::soak::{self, Plan};

/// Runs clients, floods and restarting listeners around a defender for minutes. Fails if anything grows, is lost, or does not
/// add up.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// Path of the defender
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    /// Minutes to run
    #[arg(long, default_value_t = 30, value_name = "MINUTES")]
    minutes: u32,
}

impl Soak {
    /// Runs the soak and prints what came of it.
    pub(crate) fn run(self) -> Result<()> {
        ensure!((1..=1440).contains(&self.minutes), "--minutes is between 1 and 1440");
        soak::run(&Plan { defender: self.defender, time: Duration::from_secs(u64::from(self.minutes) * 60) })
    }
}
