//! GitHub would accept the workflow that makes a release.

use std::process::Command;

use anyhow::Result;

use crate::{cargo::workspace, process, setup};

/// Runs actionlint.
pub(super) fn check() -> Result<()> {
    let mut actionlint = Command::new(setup::python("actionlint"));
    process::quietly(actionlint.arg(workspace().join(".github/workflows/release.yml")))?;
    Ok(())
}
