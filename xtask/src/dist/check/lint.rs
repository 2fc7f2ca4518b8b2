//! lintian and rpmlint find no error. What they find on purpose is overridden, with the reason, in
//! `packaging/deb/lintian-overrides` and `packaging/rpm/rpmlint.toml`.

use std::process::Command;

use anyhow::Result;

use crate::{
    cargo::workspace,
    dist::{architecture::Architecture, release::Release},
    process,
};

/// Runs both.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
    process::quietly(lintian.arg(release.deb(architecture)))?;

    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("--config").arg(workspace().join("packaging/rpm/rpmlint.toml"));
    process::quietly(rpmlint.arg(release.rpm(architecture)))?;
    Ok(())
}
