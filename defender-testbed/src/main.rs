//! The testbed on the command line: the demo, the benchmark, the soak, the recording, checks of a kernel, and single floods to look at.

mod bench;
mod checks;
mod cli;
mod dashboard;
mod demo;
mod first_use;
mod format;
mod panels;
mod progress;
mod recording;
mod rounds;
mod soak;
mod svg;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("defender-testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
