//! `defender-testbed demo`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::demo::{self, DemoPlan};

/// Shows a server under a SYN flood: undefended, with the kernel's SYN cookies, with the defender, and at the ceilings
/// of what any XDP program could do.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Path of the defender; without it, its rows are omitted
    #[arg(long, value_name = "PATH")]
    defender: Option<PathBuf>,
    /// Seconds that clients connect in each measurement
    #[arg(long, default_value_t = 2.5, value_name = "SECONDS")]
    seconds: f64,
    /// Rounds of measurements
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    rounds: u32,
    /// SYNs per second of the moderate flood
    #[arg(long, default_value_t = 200_000, value_name = "SYN/S")]
    rate: u64,
    /// Clients per second
    #[arg(long, default_value_t = 400.0, value_name = "CLIENTS/S")]
    clients: f64,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    only: Vec<demo::Defence>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

impl Demo {
    /// Runs the demo and prints what came of it.
    pub(crate) fn run(self) -> Result<()> {
        ensure!((0.5..=30.0).contains(&self.seconds), "--seconds is between 0.5 and 30");
        ensure!((1..=20).contains(&self.rounds), "--rounds is between 1 and 20");
        ensure!((1.0..=5_000.0).contains(&self.clients), "--clients is between 1 and 5000");
        ensure!(self.rate > 0, "--rate is at least 1");
        let plan = DemoPlan {
            defender: self.defender,
            seconds: self.seconds,
            rounds: self.rounds,
            rate: self.rate,
            clients: self.clients,
            only: self.only,
        };
        let results = demo::run(&plan)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&demo::json(&plan, &results))?);
        } else {
            demo::print(&plan, &results);
        }
        Ok(())
    }
}
