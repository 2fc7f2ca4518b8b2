//! What build scripts call to build an eBPF crate.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya_build::Package;

use crate::Toolchain;

/// Says that this run of the build script has the environment that aya-build is to see.
const PREPARED: &str = "DEFENDER_BUILD_PREPARED";

/// What every eBPF crate here is made of besides its own directory, seen from this crate.
const SHARED: [&str; 4] =
    ["../defender-common/src", "../defender-common/Cargo.toml", "../Cargo.toml", "../Cargo.lock"];

/// Builds the eBPF crate `package`, whose directory is `root_dir`, into `OUT_DIR/<name of its binary>`.
///
/// For build scripts, as the only thing they do: the build script is run once more in an environment of its own.
/// aya-build and the Cargo it starts take their orders from environment variables, which a running program can set
/// only with unsafe code, and which in Cargo's configuration would reach every crate of the workspace.
pub fn build(package: &str, root_dir: &str) -> Result<()> {
    let toolchain = Toolchain::find()?;
    if env::var_os(PREPARED).is_none() {
        return run_again_prepared(toolchain);
    }
    for path in SHARED {
        println!("cargo:rerun-if-changed={}/{path}", env!("CARGO_MANIFEST_DIR"));
    }
    let package = Package { name: package, root_dir, ..Package::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain.name()))
}

/// Starts this very program again; what it prints reaches Cargo as if it came from here.
fn run_again_prepared(toolchain: Toolchain) -> Result<()> {
    let program = env::current_exe().context("cannot find this build script's own file to run it again")?;
    let mut again = Command::new(&program);
    again.env(PREPARED, "1");
    // aya-build passes all that Cargo says on as warnings, its progress as well. Real warnings stay.
    again.env("CARGO_TERM_QUIET", "true");
    if toolchain.needs_bootstrap() {
        again.env("RUSTC_BOOTSTRAP", "1");
    }
    let status = again.status().with_context(|| format!("cannot run {} again", program.display()))?;
    ensure!(status.success(), "the eBPF build failed ({status}); its own messages say why");
    Ok(())
}
