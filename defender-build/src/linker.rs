//! Finds `bpf-linker` and sees that it fits the compiler.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    HOW_TO_INSTALL, Toolchain,
    toolchain::{cargo_bin, stdout},
    version,
};

/// Finds the `bpf-linker` that links what `toolchain` compiles.
///
/// Its LLVM must be as new as the compiler's: LLVM reads what older versions wrote, not what newer ones did.
pub fn find_linker(toolchain: Toolchain) -> Result<PathBuf> {
    let linker = search().with_context(|| {
        format!(
            "bpf-linker, which makes eBPF objects, is neither in PATH nor in ~/.cargo/bin; {HOW_TO_INSTALL}"
        )
    })?;
    ensure!(runs(&linker), "{} does not run; {HOW_TO_INSTALL}", linker.display());
    // A linker that does not tell is taken at its word; if it cannot read the compiler's output it says so.
    if let Some((linkers, _)) = llvm(&linker) {
        let (compilers, _) = toolchain.llvm();
        ensure!(
            linkers >= compilers,
            "{} has LLVM {linkers} and cannot read what the compiler {} writes with LLVM {compilers}; {HOW_TO_INSTALL}",
            linker.display(),
            toolchain.name(),
        );
    }
    Ok(linker)
}

/// Looks where `rustup run` will let the compiler look: in Cargo's own directory, then in PATH.
fn search() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    cargo_bin()
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("bpf-linker"))
        .find(|program| program.is_file())
}

fn runs(linker: &Path) -> bool {
    stdout(Command::new(linker).arg("--version").stderr(Stdio::null())).is_some()
}

/// The linker prints its own version only, but LLVM's option parser answers for itself, before any file is opened.
fn llvm(linker: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(linker);
    command.arg("--llvm-args=--version").arg("--output").arg(env::temp_dir().join("never-written.o"));
    command.arg("/dev/null").stderr(Stdio::null());
    version::after("LLVM version", &stdout(&mut command)?)
}
