//! Compilers that can build eBPF.

use std::{process::Stdio, time::Duration};

use anyhow::{Result, ensure};
use defender_build::{DEBIAN, NIGHTLY, Toolchain, program};

use super::{apt, say};
use crate::process;

/// rustup has no short timeout of its own, so this detects a blocked network first.
const ANSWER: Duration = Duration::from_secs(10);
const DOWNLOAD: Duration = Duration::from_mins(10);

/// Debian's compiler, the source of its `core`, and the clippy that goes with it.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// The standard way: rustup's nightly with the source of `core`.
pub(super) fn from_rustup() -> Result<()> {
    reach_rustup_server()?;
    say("adding rust-src to rustup's toolchain nightly");
    let add = rustup(&["component", "add", "rust-src", "clippy", "--toolchain", NIGHTLY]);
    if add.is_ok() && !Toolchain::installed().is_empty() {
        return Ok(());
    }
    say("installing rustup's toolchain nightly");
    #[rustfmt::skip]
    rustup(&[
        "toolchain", "install", NIGHTLY, "--profile", "minimal",
        "--component", "rust-src", "--component", "clippy", "--no-self-update",
    ])?;
    ensure!(!Toolchain::installed().is_empty(), "rustup's nightly cannot build eBPF");
    Ok(())
}

/// The clippy of rustup's nightly.
pub(super) fn clippy_from_rustup() -> Result<()> {
    say("adding clippy to rustup's toolchain nightly");
    rustup(&["component", "add", "clippy", "--toolchain", NIGHTLY])
}

/// The fallback: Debian's compiler, registered with rustup.
pub(super) fn from_debian() -> Result<()> {
    apt::install(&PACKAGES)?;
    say("linking Debian's compiler into rustup as debian-web");
    rustup(&["toolchain", "link", DEBIAN, "/usr"])
}

fn reach_rustup_server() -> Result<()> {
    say("asking rustup's server for its versions");
    let mut check = program::command("rustup");
    check.arg("check").stdout(Stdio::null()).stderr(Stdio::null());
    let status = process::status_within(ANSWER, &mut check)?;
    // 100 means that newer versions exist.
    ensure!(matches!(status.code(), Some(0 | 100)), "rustup cannot reach its server");
    Ok(())
}

fn rustup(arguments: &[&str]) -> Result<()> {
    process::must_within(DOWNLOAD, program::command("rustup").args(arguments))
}
