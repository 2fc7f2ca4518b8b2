//! The program: what the command line says is done, and a failure becomes a message and an exit status.

use std::process::ExitCode;

use defender::{cli, logger, problem};

fn main() -> ExitCode {
    cli::complete();
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match cli::run(&arguments) {
        Ok(status) => status,
        Err(error) => {
            let status = problem::status_of(&error);
            logger::failure(&format!("{error:#}"), status);
            ExitCode::from(status)
        }
    }
}
