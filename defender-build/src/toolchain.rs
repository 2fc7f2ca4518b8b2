//! Which installed compiler can build eBPF.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{HOW_TO_INSTALL, find_linker, program, version};

/// rustup's own name for the ordinary compiler.
pub const NIGHTLY: &str = "nightly";

/// The name under which Debian's compiler (`rustc-web`) is linked into rustup.
pub const DEBIAN: &str = "debian-web";

/// Where the source of `core` lies, seen from the compiler's sysroot.
const CORE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler that can compile the eBPF crates.
#[derive(Clone, Copy, Debug)]
pub struct Toolchain {
    name: &'static str,
    llvm: u32,
}

impl Toolchain {
    /// Finds a compiler whose output the installed `bpf-linker` can link: `nightly` first, else Debian's.
    pub fn find() -> Result<Self> {
        ensure!(
            program::find("rustup").is_some(),
            "rustup, which chooses the compiler for eBPF, is neither in PATH nor in ~/.cargo/bin; get it from \
             https://rustup.rs"
        );
        let mut why_not = String::new();
        for name in [NIGHTLY, DEBIAN] {
            match Self::probe(name).and_then(|toolchain| find_linker(toolchain).map(|_| toolchain)) {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => why_not.push_str(&format!("\n  toolchain {name}: {error:#}")),
            }
        }
        bail!("nothing that is installed can build eBPF; {HOW_TO_INSTALL}:{why_not}")
    }

    /// The compilers that are here, with or without a linker.
    #[must_use]
    pub fn installed() -> Vec<Self> {
        [NIGHTLY, DEBIAN].into_iter().filter_map(|name| Self::probe(name).ok()).collect()
    }

    /// What rustup calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The major version of its LLVM, whose output the linker must be able to read.
    #[must_use]
    pub fn llvm(self) -> u32 {
        self.llvm
    }

    /// Whether it comes with clippy.
    #[must_use]
    pub fn has_clippy(self) -> bool {
        program::stdout(self.cargo().args(["clippy", "--version"])).is_some()
    }

    /// A Cargo of this toolchain that may use unstable options.
    #[must_use]
    pub fn cargo(self) -> Command {
        let mut command = program::command("rustup");
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

    fn probe(name: &'static str) -> Result<Self> {
        let about = rustc(name, "-vV").context("not installed")?;
        let release = version::after("release:", &about).context("rustc does not say its version")?;
        let oldest = version::parse(env!("CARGO_PKG_RUST_VERSION")).context("rust-version is no version")?;
        ensure!(
            release >= oldest,
            "rustc {}.{} is older than {}.{}",
            release.0,
            release.1,
            oldest.0,
            oldest.1
        );
        let llvm =
            version::after("LLVM version:", &about).context("rustc does not say its LLVM's version")?;

        let sysroot = rustc(name, "--print=sysroot").context("rustc has no sysroot")?;
        let core = PathBuf::from(sysroot.trim_end()).join(CORE);
        ensure!(core.exists(), "rust-src is missing ({} does not exist)", core.display());
        Ok(Self { name, llvm: llvm.0 })
    }
}

/// What this toolchain's rustc answers, if there is one.
fn rustc(toolchain: &str, question: &str) -> Option<String> {
    let mut command = program::command("rustup");
    command.args(["run", toolchain, "rustc", question]).stderr(Stdio::null());
    // Looking must not install anything.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    program::stdout(&mut command)
}
