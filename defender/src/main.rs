//! The program: what the command line says is done, and a failure becomes a message and an exit status.

use std::process::ExitCode;

use clap::Parser as _;
use defender::{cli, logger, problem};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(&arguments) {
        Ok(status) => status,
        Err(error) => {
            logger::fail(&error);
            problem::exit_status(&error)
        }
    }
}
