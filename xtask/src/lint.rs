//! `cargo xtask lint`
//!
//! The eBPF crates are linted as what they are: clippy of the compiler that builds them, for the eBPF target, with
//! `core` compiled for it. A host-target run in their stead would check other `cfg`s and other types.

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, process, setup};

/// The crates that are built for the eBPF target.
const EBPF: [&str; 2] = ["defender-ebpf", "defender-testbed-ebpf"];

/// Checks the format of everything and lints everything; the first thing found ends it.
pub(crate) fn run() -> Result<ExitCode> {
    setup::compiler()?;
    setup::clippy()?;
    format()?;
    process::must(cargo::cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    defender_build::clippy(cargo::workspace(), &EBPF)?;
    Ok(ExitCode::SUCCESS)
}

/// rustfmt reads no eBPF and needs no target: it checks all crates alike.
fn format() -> Result<()> {
    process::must(cargo::cargo("fmt").args(["--all", "--", "--check"]))?;
    // A workspace of its own.
    let fuzz = cargo::workspace().join("fuzz");
    if fuzz.join("Cargo.toml").exists() {
        process::must(cargo::cargo_at("fmt", &fuzz).args(["--", "--check"]))?;
    }
    Ok(())
}
