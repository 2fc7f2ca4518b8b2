//! `cargo xtask lint`
//!
//! The eBPF crates are linted for the eBPF target, by the clippy of the compiler that builds them. A run for the host target
//! would check other `cfg`s and other types.

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, process, setup};

/// The crates that are built for the eBPF target.
const EBPF: [&str; 2] = ["defender-ebpf", "defender-testbed-ebpf"];

/// Checks the format and lints everything. Stops at the first finding.
pub(crate) fn run() -> Result<ExitCode> {
    setup::compiler()?;
    setup::clippy()?;
    format()?;
    process::must(cargo::cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    defender_build::clippy(cargo::workspace(), &EBPF)?;
    Ok(ExitCode::SUCCESS)
}

/// rustfmt needs no target: it checks the eBPF crates like all others.
fn format() -> Result<()> {
    process::must(cargo::cargo("fmt").args(["--all", "--", "--check"]))?;
    // A workspace of its own.
    let fuzz = cargo::workspace().join("fuzz");
    if fuzz.join("Cargo.toml").exists() {
        process::must(cargo::cargo_at("fmt", &fuzz).args(["--", "--check"]))?;
    }
    Ok(())
}
