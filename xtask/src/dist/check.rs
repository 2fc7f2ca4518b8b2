//! Checks the files of a release: linters, and use of each file as its users will.

mod binary;
mod booted;
mod chart;
mod container;
mod contents;
mod debian;
mod first_use;
mod image;
mod life;
mod lint;
mod rpm;
mod workflow;

use std::fs;

use anyhow::Result;

use super::{
    architecture::Architecture,
    release::{Release, trial_directory},
    step,
};
use crate::{privilege, process};

/// Checks everything. Stops at the first finding.
pub(super) fn all(release: &Release, architectures: &[Architecture]) -> Result<()> {
    clear()?;
    for architecture in architectures {
        step(&format!("check: binary for {architecture}"), || binary::check(release, *architecture))?;
        step(&format!("check: linters for {architecture}"), || lint::check(release, *architecture))?;
        step(&format!("check: contents for {architecture}"), || contents::check(release, *architecture))?;
        step(&format!("check: image for {architecture}"), || image::check(release, *architecture))?;
    }
    for architecture in architectures.iter().filter(|it| it.is_native()) {
        step("check: Debian", || debian::prepare().map(|_| ()))?;
        step("check: life of the .deb", || life::check(release, *architecture))?;
        step("check: life of the .deb on a running system", || booted::check(release, *architecture))?;
        step("check: first use of the .deb", || first_use::check(release, *architecture))?;
        step("check: life of the .rpm", || rpm::check(release, *architecture))?;
    }
    step("check: chart", || chart::check(release))?;
    step("check: workflow", workflow::check)?;
    clear()
}

/// Removes what an earlier try has left, which root may own.
fn clear() -> Result<()> {
    let directory = trial_directory();
    process::quietly(privilege::as_root("rm")?.args(["-r", "-f", "--one-file-system"]).arg(&directory))?;
    Ok(fs::create_dir_all(directory)?)
}
