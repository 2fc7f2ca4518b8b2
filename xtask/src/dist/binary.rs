//! The program: one static file, the eBPF object inside.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use defender_build::program;

use super::{
    architecture::Architecture,
    release::{Release, built},
};
use crate::{cargo, process};

/// Builds it as released. rust-lld comes with the compiler and links for every architecture; no C compiler is needed.
pub(super) fn build(release: &Release, architecture: Architecture) -> Result<()> {
    let target = architecture.target();
    let mut build = cargo::cargo("build");
    build.args(["--quiet", "--locked", "--release", "--package", "defender", "--target", target]);
    build.args(["--config", &format!("target.{target}.linker=\"rust-lld\"")]);
    build.args(["--config", "profile.release.strip=\"symbols\""]);
    process::must(&mut build)?;

    let program = built(architecture)?;
    ensure_static(&program)?;
    fs::copy(&program, release.binary(architecture))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    Ok(())
}

/// It names neither a loader nor a library, and has no symbols.
fn ensure_static(program: &Path) -> Result<()> {
    let mut readelf = Command::new("readelf");
    readelf.args(["--wide", "--program-headers", "--dynamic", "--sections"]).arg(program);
    let text = program::stdout(&mut readelf).with_context(|| format!("cannot read {}", program.display()))?;
    for (sign, meaning) in [("INTERP", "a loader"), ("(NEEDED)", "a library"), (".symtab", "symbols")] {
        ensure!(!text.contains(sign), "{} is not as released: it has {meaning}", program.display());
    }
    Ok(())
}
