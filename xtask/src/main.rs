//! What people type: `cargo xtask COMMAND`.
//!
//! Every command first brings what is missing on this machine; where nothing is missing that takes a moment and says
//! nothing. `cargo build` and `cargo test` work without this program once `cargo xtask setup` has run.

mod build;
mod cargo;
mod cleanup;
#[path = "../../defender-testbed/src/leftovers.rs"]
#[expect(unreachable_pub, reason = "shared with the testbed, which is a library")]
mod leftovers;
mod lint;
mod privilege;
mod process;
mod run;
mod setup;
mod test;
mod testbed;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Sets up, builds, runs, tests and lints defender.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install what is missing to build: a compiler and a linker for eBPF.
    Setup,
    /// Build everything.
    Build {
        /// Build as it is shipped, optimised.
        #[arg(long)]
        release: bool,
    },
    /// Build defender and run it, as root.
    Run {
        /// Build as it is shipped, optimised.
        #[arg(long)]
        release: bool,
        /// What defender gets as its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show what defender does, on this machine, between two network namespaces.
    Demo {
        /// What the demo gets as its arguments; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure what defender costs, on this machine, compared with floors and peers.
    Bench {
        /// What the benchmark gets as its arguments; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run all tests.
    Test {
        /// Run only tests whose name contains this.
        filter: Option<String>,
    },
    /// Check the format of all code, and lint it, the eBPF crates included.
    Lint,
    /// Remove what tests that were killed left behind: namespaces and pins named `dfnd-…`.
    Cleanup {
        /// Do not ask sudo to become root.
        #[arg(long, hide = true)]
        as_root: bool,
        /// Wait until the process at the other end of standard input ends.
        #[arg(long, hide = true)]
        after_parent: bool,
    },
}

fn main() -> ExitCode {
    match dispatch(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::compiler().map(|()| ExitCode::SUCCESS),
        Command::Build { release } => build::run(release),
        Command::Run { release, arguments } => run::run(release, &arguments),
        Command::Demo { arguments } => testbed::run("demo", &arguments),
        Command::Bench { arguments } => testbed::run("bench", &arguments),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Lint => lint::run(),
        Command::Cleanup { as_root, after_parent } => {
            match (as_root, after_parent) {
                (_, true) => cleanup::after_parent()?,
                (true, false) => leftovers::remove()?,
                (false, false) => cleanup::run()?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
