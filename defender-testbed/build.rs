//! Builds the testbed's eBPF programs.

fn main() -> anyhow::Result<()> {
    // The eBPF crate includes this file.
    println!("cargo:rerun-if-changed=src/abi.rs");
    defender_build::build("defender-testbed-ebpf", "ebpf")
}
