//! The command line.

mod bench;
mod checks;
mod dashboard;
mod demo;
mod first_use;
mod flood;
mod recording;
mod soak;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use defender_testbed::cleanup;

/// Floods a real TCP server inside network namespaces of its own, and measures what clients see.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
    Checks(checks::Checks),
    Dashboard(dashboard::Dashboard),
    Demo(demo::Demo),
    FirstUse(first_use::FirstUse),
    Flood(flood::Flood),
    Recording(recording::Recording),
    Soak(soak::Soak),
    #[command(hide = true)]
    Guest(checks::Guest),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root");
        // A guest has nothing to clean up before it is set up.
        if !matches!(self.command, Command::Guest(_)) {
            cleanup::prepare();
        }
        match self.command {
            Command::Bench(bench) => bench.run(),
            Command::Checks(checks) => checks.run(),
            Command::Dashboard(dashboard) => dashboard.run(),
            Command::Demo(demo) => demo.run(),
            Command::FirstUse(first_use) => first_use.run(),
            Command::Flood(flood) => flood.run(),
            Command::Recording(recording) => recording.run(),
            Command::Soak(soak) => soak.run(),
            Command::Guest(guest) => guest.run(),
        }
    }
}
