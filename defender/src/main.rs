use std::process::ExitCode;

use clap::Parser as _;
use defender::{cli, problem};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(&arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("defender: {error:#}");
            problem::exit_status(&error)
        }
    }
}
