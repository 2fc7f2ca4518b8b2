//! `defender-testbed bench`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::bench::{self, Plan, Question};

/// Measures how fast the defender is, compared with floors and peers, on this machine: per packet in the kernel, end to
/// end in network namespaces, bulk data, how costs grow, and what each kind of packet executes and touches.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The defender to measure
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    /// Only what packets cost and execute, in seconds instead of minutes; fails if one is beyond its limit
    #[arg(long)]
    quick: bool,
    /// How often everything end to end is measured
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    rounds: u32,
    /// Only these questions
    #[arg(long, value_enum, value_delimiter = ',', value_name = "QUESTION")]
    only: Vec<Question>,
    /// Only these kinds of packets, as JSON names them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    packet: Vec<String>,
    /// End to end, only these rows, as the demo names them
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    row: Vec<bench::Defence>,
    /// Runs of each kind of packet, of 20,000 packets each; many of one kind are something to profile
    #[arg(long, value_name = "COUNT")]
    runs: Option<u32>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Write a plot (SVG) for each question into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Bench {
    /// Measures and prints what came of it.
    pub(crate) fn run(self) -> Result<()> {
        ensure!((1..=20).contains(&self.rounds), "--rounds is between 1 and 20");
        ensure!(self.runs.is_none_or(|runs| (1..=100_000).contains(&runs)), "--runs is between 1 and 100000");
        let plan = Plan {
            defender: self.defender,
            quick: self.quick,
            rounds: self.rounds,
            only: self.only,
            packets: self.packet,
            defences: self.row,
            runs: self.runs,
        };
        let report = bench::run(&plan)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&bench::json(&plan, &report))?);
        } else {
            bench::print(&report);
        }
        if let Some(folder) = self.out {
            let count = bench::write_plots(&report, &folder)?;
            eprintln!("{count} plots are in {}", folder.display());
        }
        complain(&report.complaints(), plan.quick)
    }
}

/// A quick run guards against getting slower; a long one only tells.
fn complain(complaints: &[String], fail: bool) -> Result<()> {
    for complaint in complaints {
        eprintln!("beyond its limit: {complaint}");
    }
    if fail && !complaints.is_empty() {
        bail!("{} numbers are beyond their limits", complaints.len());
    }
    Ok(())
}
