//! `defender-testbed bench`.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::bench::{self, BenchPlan, Question};

/// Measures the defender's speed on this machine, compared with floors and peers: per packet in the kernel, end to end in
/// network namespaces, bulk data, growth of costs, and the instructions and cache lines of each kind of packet.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Path of the defender
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    /// Measure only the cost and instructions of packets, in seconds; fail if one exceeds its limit
    #[arg(long)]
    quick: bool,
    /// Rounds of end-to-end measurements
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    rounds: u32,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "QUESTION")]
    only: Vec<Question>,
    /// Only these kinds of packets, as JSON names them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    packet: Vec<String>,
    /// End to end, only these rows, as the demo names them
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROW")]
    row: Vec<bench::Defence>,
    /// Runs of 20,000 packets for each kind; many runs of one kind are useful for profiling
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
        let plan = BenchPlan {
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
