//! The command line.

mod bench;
mod demo;
mod flood;

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
    Demo(demo::Demo),
    Flood(flood::Flood),
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces and XDP need root");
        cleanup::prepare();
        match self.command {
            Command::Bench(bench) => bench.run(),
            Command::Demo(demo) => demo.run(),
            Command::Flood(flood) => flood.run(),
        }
    }
}
