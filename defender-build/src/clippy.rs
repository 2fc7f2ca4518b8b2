//! Lints eBPF crates.

use std::{env, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::Toolchain;

const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Runs clippy on eBPF crates, for the eBPF target and with the compiler that builds them; warnings are errors.
///
/// It is the real thing and no stand-in on the host's target: `core` is compiled for eBPF too, so that `cfg`s, types
/// and lints are those of the shipped object.
pub fn clippy(workspace: &Path, packages: &[&str]) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut clippy = toolchain.cargo();
    clippy.args(["clippy", "--release", "--target", TARGET, "-Z", "build-std=core"]);
    clippy.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    for package in packages {
        clippy.args(["--package", package]);
    }
    clippy.args(["--", "-D", "warnings"]);
    // The flag that aya-build gives when it compiles: without it aya-ebpf does not know its registers.
    clippy.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));

    let status = clippy.status().with_context(|| format!("cannot run {clippy:?}"))?;
    ensure!(status.success(), "clippy on the eBPF crates failed ({status}); its own messages say why");
    Ok(())
}
