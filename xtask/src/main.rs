//! `cargo xtask COMMAND`: the project's commands.
//!
//! Every command first installs missing prerequisites. Once `cargo xtask setup` has run, `cargo build` and
//! `cargo test` work without this program.

mod build;
mod cargo;
mod cleanup;
mod dist;
mod docs;
mod kernels;
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
    /// Install what the build needs: a compiler and a linker for eBPF.
    Setup,
    /// Build everything.
    Build {
        /// Build with optimisations, as shipped.
        #[arg(long)]
        release: bool,
    },
    /// Build defender and run it, as root.
    Run {
        /// Build with optimisations, as shipped.
        #[arg(long)]
        release: bool,
        /// Arguments for defender.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show defender at work on this machine, between two network namespaces.
    Demo {
        /// Arguments for the demo; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Draw docs/dashboard.svg: the dashboard's panels, as a real Prometheus sees a flood.
    Dashboard {
        /// Arguments for the drawing; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure the cost of defender on this machine, compared with floors and peers.
    Bench {
        /// Arguments for the benchmark; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run clients, floods and restarts for minutes, and fail if anything grows or gets lost.
    Soak {
        /// Arguments for the soak; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Record `defender top` while a flood comes and goes, and draw docs/top.svg.
    Recording {
        /// Arguments for the recording; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run all tests.
    Test {
        /// Run only tests whose name contains this.
        filter: Option<String>,
    },
    /// Check defender on kernels from Debian's archive, in software emulation, and print a table.
    Kernels(kernels::Arguments),
    /// Check the format of all code and lint it, including the eBPF crates.
    Lint,
    /// Build what is released into target/dist: static programs, packages, images, a chart, checksums.
    Dist(dist::Arguments),
    /// Write docs/reference and docs/man anew, from the code that they describe.
    Docs,
    /// Remove what killed tests left behind: namespaces and pins named `dfnd-…`.
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
        Command::Dashboard { arguments } => testbed::run("dashboard", &arguments),
        Command::Demo { arguments } => testbed::run("demo", &arguments),
        Command::Bench { arguments } => testbed::run("bench", &arguments),
        Command::Soak { arguments } => testbed::run("soak", &arguments),
        Command::Recording { arguments } => testbed::recording(&arguments),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Kernels(arguments) => kernels::run(&arguments),
        Command::Lint => lint::run(),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Docs => docs::run(),
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
