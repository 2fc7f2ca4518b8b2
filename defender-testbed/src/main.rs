//! The testbed on the command line: the demo, and single floods to look at.

mod bench;
mod cli;
mod demo;
mod format;
mod rounds;
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
