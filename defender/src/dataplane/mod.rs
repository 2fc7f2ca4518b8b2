//! The eBPF side: loading, attaching, and the maps. Nothing else in this crate calls aya.

pub mod clock;
pub mod features;
pub mod flows;
pub mod in_place;
pub mod kfunc;
pub mod layout;
pub mod link;
pub mod loader;
pub mod logs;
pub mod maps;
pub mod pins;
pub mod walk;

/// The object file with all programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/defender-ebpf"));
