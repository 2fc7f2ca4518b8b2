//! Which installed compiler can build eBPF.

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{HOW_TO_INSTALL, version};

/// rustup's own name for the ordinary compiler.
pub const NIGHTLY: &str = "nightly";

/// The name under which Debian's compiler (`rustc-web`) is linked into rustup.
pub const DEBIAN: &str = "debian-web";

/// Where the source of `core` lies, seen from the compiler's sysroot.
const CORE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler that can build the eBPF crates.
#[derive(Clone, Copy, Debug)]
pub struct Toolchain {
    name: &'static str,
    llvm: (u32, u32),
}

impl Toolchain {
    /// Finds a compiler that can build eBPF: `nightly` first, else Debian's.
    pub fn find() -> Result<Self> {
        ensure!(
            rustup(&["--version"]).is_some(),
            "cannot run rustup, which chooses the compiler for eBPF: install it from https://rustup.rs and have \
             ~/.cargo/bin in PATH"
        );
        let mut why_not = String::new();
        for name in [NIGHTLY, DEBIAN] {
            match Self::probe(name) {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => why_not.push_str(&format!("\n  toolchain {name}: {error:#}")),
            }
        }
        bail!("no installed compiler can build eBPF; {HOW_TO_INSTALL}:{why_not}")
    }

    /// What rustup calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// A Cargo of this toolchain that may use unstable options.
    #[must_use]
    pub fn cargo(self) -> Command {
        let mut command = Command::new("rustup");
        command.args(["run", self.name, "cargo"]);
        if self.needs_bootstrap() {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // Set by an outer Cargo; they would bring that one's compiler back in.
        for variable in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(variable);
        }
        command
    }

    /// Whether it takes unstable options only with `RUSTC_BOOTSTRAP=1`.
    pub(crate) fn needs_bootstrap(self) -> bool {
        self.name != NIGHTLY
    }

    /// The version of its LLVM, whose output the linker must be able to read.
    pub(crate) fn llvm(self) -> (u32, u32) {
        self.llvm
    }

    fn probe(name: &'static str) -> Result<Self> {
        let about = rustup(&["run", name, "rustc", "-vV"]).context("not installed")?;
        let release = version::after("release:", &about).context("rustc does not say its version")?;
        let oldest = version::parse(env!("CARGO_PKG_RUST_VERSION")).context("rust-version is no version")?;
        ensure!(release >= oldest, "rustc {release:?} is too old, {oldest:?} is needed");
        let llvm =
            version::after("LLVM version:", &about).context("rustc does not say its LLVM's version")?;

        let sysroot = rustup(&["run", name, "rustc", "--print=sysroot"]).context("rustc has no sysroot")?;
        let core = PathBuf::from(sysroot.trim_end()).join(CORE);
        ensure!(core.exists(), "rust-src is missing ({} does not exist)", core.display());
        Ok(Self { name, llvm })
    }
}

/// What rustup prints when it is called like this, or nothing if it fails.
fn rustup(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("rustup");
    command.args(arguments).stderr(Stdio::null());
    // Looking must not install anything.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    stdout(&mut command)
}

/// What a successful run of this command prints.
pub(crate) fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Cargo's directory for installed programs, which `rustup run` puts into PATH.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = |name: &str| env::var_os(name).filter(|value| value != OsStr::new("")).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| home("HOME").map(|home| home.join(".cargo")))?;
    Some(cargo.join("bin"))
}
