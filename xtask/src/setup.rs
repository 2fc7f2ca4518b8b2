//! `cargo xtask setup`: brings what is missing.
//!
//! The ordinary way first, rustup's nightly and a ready-made `bpf-linker`; where that is out of reach, Debian's
//! packages. What is there is left as it is, and when nothing is missing nothing is said.

mod apt;
mod compiler;
mod linker;
mod programs;

use anyhow::{Context as _, Result, ensure};
use defender_build::{DEBIAN, NIGHTLY, Toolchain};

pub(crate) use programs::test_programs;

/// What to type where this program cannot do it.
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
    // No compiler yet, or one whose LLVM is too new for any linker here: Debian has a pair that fits.
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

/// Does something that another way can stand in for: failure is told, and that is all.
fn try_to(step: impl FnOnce() -> Result<()>) -> bool {
    match step() {
        Ok(()) => true,
        Err(error) => {
            say(&format!("that did not work: {error:#}"));
            false
        }
    }
}

fn say(text: &str) {
    eprintln!("setup: {text}");
}
