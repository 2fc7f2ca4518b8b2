//! `defender-testbed dashboard`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::dashboard;

/// Draws the panels of a Grafana dashboard, from what a real Prometheus scrapes of a defender while a server is flooded.
#[derive(Debug, Args)]
pub(crate) struct Dashboard {
    /// Path of the defender
    #[arg(long, value_name = "PATH")]
    defender: PathBuf,
    /// The dashboard
    #[arg(long, default_value = "packaging/grafana/defender.json", value_name = "FILE")]
    dashboard: PathBuf,
    /// Alert rules
    #[arg(long, default_value = "packaging/prometheus/defender.rules.yml", value_name = "FILE")]
    rules: PathBuf,
    /// Where the picture is written
    #[arg(long, default_value = "docs/dashboard.svg", value_name = "FILE")]
    output: PathBuf,
}

impl Dashboard {
    /// Runs the flood and writes the picture.
    pub(crate) fn run(self) -> Result<()> {
        let scraped = dashboard::scrape(&self.defender, &self.dashboard, &self.rules)?;
        std::fs::write(&self.output, scraped.draw())?;
        println!("{} has {} panels", self.output.display(), scraped.panels.len());
        Ok(())
    }
}
