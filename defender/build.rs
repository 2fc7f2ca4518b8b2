//! Builds the eBPF programs that the controller carries inside.

fn main() -> anyhow::Result<()> {
    defender_build::build("defender-ebpf", concat!(env!("CARGO_MANIFEST_DIR"), "/../defender-ebpf"))
}
