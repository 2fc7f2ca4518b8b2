//! The eBPF side: loading, attaching, and the maps. No other module of this crate calls aya.

#[cfg(feature = "metrics")]
pub mod all_service_counters;
pub mod bpf;
pub mod clock;
pub mod conntrack;
pub mod detach;
pub mod engine;
pub mod features;
pub mod flows;
pub mod held;
pub mod in_place;
pub mod kfunc;
pub mod layout;
pub mod link;
mod listeners;
pub mod loader;
pub mod logs;
pub mod maps;
pub mod members;
pub mod open_link;
pub mod pins;
pub mod restore;
pub mod socket_iter;
pub mod survey;

/// The object file with all programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/defender-ebpf"));
