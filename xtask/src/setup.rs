//! `cargo xtask setup`: installs what is missing.
//!
//! First choice: rustup's nightly and a prebuilt `bpf-linker`. If these are unreachable: Debian's packages.
//! Whatever is already installed is kept.

mod apt;
mod compiler;
mod distribution;
mod linker;
mod programs;

use anyhow::{Context as _, Result, ensure};
use defender_build::{DEBIAN, NIGHTLY, Toolchain};

pub(crate) use apt::update as update_packages;
pub(crate) use distribution::{for_building as distribution, for_checking as distribution_checks, python};
pub(crate) use programs::{kernel_programs, test_programs};

/// The commands to run by hand if this program fails.
const BY_HAND: &str = "install these by hand, then try again:
  rustup toolchain install nightly --component rust-src --component clippy
  cargo install cargo-binstall
  cargo binstall bpf-linker";

/// A compiler and a linker for eBPF.
pub(crate) fn compiler() -> Result<()> {
    if Toolchain::find().is_ok() {
        return Ok(());
    }
    if Toolchain::installed().is_empty() {
        try_to(compiler::from_rustup);
    }
    if Toolchain::installed().into_iter().any(|toolchain| try_to(|| linker::install(toolchain))) {
        return Ok(());
    }
    // No compiler yet, or one whose LLVM is too new for any available linker. Debian has a matching pair.
    compiler::from_debian().context(BY_HAND)?;
    if let Some(debian) = Toolchain::installed().into_iter().find(|toolchain| toolchain.name() == DEBIAN) {
        linker::install(debian).context(BY_HAND)?;
    }
    Toolchain::find().map(|_| ()).context(BY_HAND)
}

/// The clippy of the compiler for eBPF.
pub(crate) fn clippy() -> Result<()> {
    let toolchain = Toolchain::find()?;
    if toolchain.has_clippy() {
        return Ok(());
    }
    if toolchain.name() == NIGHTLY {
        compiler::clippy_from_rustup()?;
    } else {
        apt::install(&["rust-web-clippy"])?;
    }
    ensure!(toolchain.has_clippy(), "toolchain {} has no clippy although it was installed", toolchain.name());
    Ok(())
}

/// Tries a step that has a fallback. A failure is only printed.
fn try_to(step: impl FnOnce() -> Result<()>) -> bool {
    match step() {
        Ok(()) => true,
        Err(error) => {
            say(&format!("failed, trying another way: {error:#}"));
            false
        }
    }
}

fn say(text: &str) {
    eprintln!("setup: {text}");
}
