//! Finds `bpf-linker` and sees that it fits the compiler.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Toolchain, program, version};

/// Finds the `bpf-linker` that links what `toolchain` compiles.
///
/// Its LLVM must be as new as the compiler's: LLVM reads what older versions wrote, not what newer ones did.
pub fn find_linker(toolchain: Toolchain) -> Result<PathBuf> {
    let linker = program::find("bpf-linker").context("bpf-linker is neither in PATH nor in ~/.cargo/bin")?;
    let runs = program::stdout(Command::new(&linker).arg("--version")).is_some();
    ensure!(runs, "{} does not run", linker.display());
    // A linker that does not tell is taken at its word; if it cannot read the compiler's output it says so.
    let version = llvm(&linker).unwrap_or(u32::MAX);
    ensure!(
        version >= toolchain.llvm(),
        "{} has LLVM {version} and cannot read what this compiler writes with LLVM {}",
        linker.display(),
        toolchain.llvm()
    );
    Ok(linker)
}

/// The linker prints its own version only, but LLVM's option parser answers for itself, before any file is opened.
fn llvm(linker: &Path) -> Option<u32> {
    let mut command = Command::new(linker);
    command.arg("--llvm-args=--version").arg("--output").arg(env::temp_dir().join("never-written.o"));
    let answer = program::stdout(command.arg("/dev/null"))?;
    version::after("LLVM version", &answer).map(|(major, _)| major)
}
