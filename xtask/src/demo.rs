//! `cargo xtask demo`

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{build, cargo, cleanup::Guard, privilege, process, setup};

/// Builds what is shipped and shows it at work in the testbed.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    setup::compiler()?;
    setup::test_programs()?;
    build::packages(&["defender", "defender-testbed"], true)?;

    let _guard = Guard::new()?;
    let mut testbed = privilege::as_root(cargo::built("defender-testbed", true)?)?;
    testbed.args(["demo", "--defender"]).arg(cargo::built("defender", true)?).args(arguments);
    process::exit_code(&mut testbed)
}
