//! The Helm chart, as an archive that `helm install` takes.

use std::{fs, process::Command};

use anyhow::{Result, ensure};

use super::release::{NAME, Release};
use crate::{cargo::workspace, process};

/// Where the chart is.
const DIRECTORY: &str = "packaging/helm";

/// Packs it. Its version is that of the program.
pub(super) fn build(release: &Release) -> Result<()> {
    let directory = workspace().join(DIRECTORY);
    let about = fs::read_to_string(directory.join(NAME).join("Chart.yaml"))?;
    for line in [format!("version: {}", release.version()), format!("appVersion: \"{}\"", release.version())]
    {
        ensure!(about.lines().any(|it| it == line), "{DIRECTORY}/{NAME}/Chart.yaml lacks the line `{line}`");
    }
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", release.date())).arg("--file").arg(release.chart());
    process::must(tar.arg("--directory").arg(directory).arg(NAME))
}
