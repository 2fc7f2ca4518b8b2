//! What the eBPF programs and the controller of `defender` share.
//!
//! Everything here is pure: bytes, keys and time come in as arguments, verdicts and bytes go out. The eBPF crate only
//! moves bytes between this code, the packet and the maps, so that what is tested on the host is what runs in the
//! kernel. Nothing in this crate panics, whatever the input.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod budget;
pub mod checksum;
pub mod classify;
pub mod clock;
pub mod cookie;
pub mod decide;
pub mod flow;
pub mod half_open;
pub mod handoff_metadata;
pub mod lifetimes;
pub mod load;
pub mod mitigation;
pub mod presence_filter;
pub mod profile;
pub mod queue;
pub mod shared;
pub mod siphash;
pub mod sources;
pub mod syn_ack;
pub mod tcp_state;
pub mod trace;
pub mod validated_cookies;
pub mod validated_sources;
pub mod verdict;
pub mod wire;
