//! `cargo xtask demo` and `cargo xtask bench`: what the testbed's own program does.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{build, cargo, cleanup::Guard, privilege, process, setup};

/// Builds what is shipped and has the testbed show it at work, or measure it.
pub(crate) fn run(subcommand: &str, arguments: &[OsString]) -> Result<ExitCode> {
    setup::compiler()?;
    setup::test_programs()?;
    build::packages(&["defender", "defender-testbed"], true)?;

    let _guard = Guard::new()?;
    let mut testbed = privilege::as_root(cargo::built("defender-testbed", true)?)?;
    testbed.args([subcommand, "--defender"]).arg(cargo::built("defender", true)?).args(arguments);
    process::exit_code(&mut testbed)
}
