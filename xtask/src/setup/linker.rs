//! `bpf-linker`, with an LLVM at least as new as the compiler's.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use defender_build::{Toolchain, find_linker, program};

use super::{apt, say, try_to};
use crate::process;

/// The version tested with the LLVMs of the compilers in use. Later ones drop older LLVMs.
const VERSION: &str = "0.13.0";

const DOWNLOAD: Duration = Duration::from_mins(2);

/// Installs a linker for this toolchain's output, unless there is one.
pub(super) fn install(toolchain: Toolchain) -> Result<()> {
    if find_linker(toolchain).is_ok() {
        return Ok(());
    }
    if program::find("cargo-binstall").is_some() && try_to(ready_made) && find_linker(toolchain).is_ok() {
        return Ok(());
    }
    from_source(toolchain.llvm())?;
    find_linker(toolchain).map(|_| ())
}

/// The standard way: the project's own binary, which includes its LLVM.
fn ready_made() -> Result<()> {
    say("installing bpf-linker with cargo-binstall");
    let mut binstall = program::command("cargo-binstall");
    binstall.args(["--no-confirm", "--force", "--disable-strategies", "compile", "bpf-linker"]);
    process::must_within(DOWNLOAD, &mut binstall)
}

/// The fallback: built here against the distribution's LLVM.
fn from_source(llvm: u32) -> Result<()> {
    let prefix = llvm_prefix(llvm)?;
    say(&format!("building bpf-linker {VERSION} with LLVM {llvm}, which takes a few minutes"));
    let mut install = program::command("cargo");
    install.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    install.env("LLVM_PREFIX", prefix);
    // It must not go into the workspace's target directory.
    install.env_remove("CARGO_TARGET_DIR");
    process::must(&mut install)
}

/// Where this LLVM's libraries and headers are. Installs Debian's packages if needed.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    if apt::is_here() {
        let [library, polly] = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        apt::install(&[&library, &polly, "libzstd-dev", "zlib1g-dev", "libxml2-dev"])?;
    }
    let prefix = Path::new("/usr/lib").join(format!("llvm-{llvm}"));
    ensure!(
        prefix.join("bin/llvm-config").exists(),
        "LLVM {llvm}, against which bpf-linker is built, is not in {}; set LLVM_PREFIX to where it is",
        prefix.display()
    );
    Ok(prefix)
}
