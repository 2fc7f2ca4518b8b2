//! The chart renders by Helm's own code, and Kubernetes' schemas accept what it renders.

use std::process::Command;

use anyhow::Result;

use crate::{cargo::workspace, dist::release::Release, process, setup};

/// Lints, renders and validates it, with several sets of values.
pub(super) fn check(release: &Release) -> Result<()> {
    let mut check = Command::new(setup::python("python"));
    check.arg(workspace().join("packaging/helm/check.py")).arg(release.chart());
    process::quietly(&mut check)?;
    Ok(())
}
