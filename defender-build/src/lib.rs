//! Builds and lints the project's eBPF crates.
//!
//! eBPF needs three things that a stable Rust installation lacks: a compiler that may use unstable features, the
//! source of `core`, and `bpf-linker`. Two installations have them: rustup's `nightly` with `rust-src`, or, where
//! rustup's downloads are out of reach, Debian's own compiler. [`Toolchain::find`] says which one is here, build
//! scripts call [`build`], and `cargo xtask lint` calls [`clippy`].

#[cfg(feature = "build-script")]
mod build;
mod clippy;
mod linker;
pub mod program;
mod toolchain;
mod version;

#[cfg(feature = "build-script")]
pub use build::build;
pub use clippy::clippy;
pub use linker::find_linker;
pub use toolchain::{DEBIAN, NIGHTLY, Toolchain};

/// What an error message ends with when something has to be installed.
const HOW_TO_INSTALL: &str = "`cargo xtask setup` installs what is missing";
