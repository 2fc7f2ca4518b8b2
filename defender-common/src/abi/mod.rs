//! What the eBPF programs and the controller share: names and layouts of the maps, and constants of the programs.
//!
//! Each module is named after what it lays out. Every type is `repr(C)` without padding, and holds only integers and arrays of
//! them, so any bytes are a valid value. Addresses are 16 bytes in network order; IPv4 is mapped (`::ffff:a.b.c.d`). Ports are
//! in host order. A change to any layout raises [`ABI_VERSION`]; the controller refuses pinned maps of another version.

mod budget;
mod config;
mod counters;
pub mod engine;
mod events;
mod flows;
mod half_open;
pub mod in_place;
mod interfaces;
mod keys;
pub mod kfunc;
mod listeners;
mod loads;
pub mod map;
pub mod member;
mod ports;
mod prefixes;
mod presence_filter;
pub mod program;
mod service_counters;
mod services;
mod sources;
mod trace;
mod valid_cookies;
mod valid_sources;

pub use self::{
    budget::*, config::*, counters::*, events::*, flows::*, half_open::*, interfaces::*, keys::*,
    listeners::*, loads::*, ports::*, prefixes::*, presence_filter::*, service_counters::*, services::*,
    sources::*, trace::*, valid_cookies::*, valid_sources::*,
};
pub use crate::wire::address::{TableKeys, mapped, words};

/// Version of everything in this module; held in [`Config::abi_version`].
pub const ABI_VERSION: u32 = 10;

/// Types that may be read from and written to maps as plain bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and any bytes are a valid value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($name:ty: $size:expr,)+) => {
        $(
            // SAFETY: integers and arrays of integers only, repr(C), and the size is the sum of the fields' sizes.
            unsafe impl Plain for $name {}
            const _: () = assert!(size_of::<$name>() == $size);
        )+
    };
}

plain! {
    u32: 4,
    u8: 1,
    Config: 152,
    Keys: 80,
    Interface: 88,
    Interfaces: 5632,
    FilterBytes: 262144,
    Port: 24,
    ServiceKey: 20,
    Service: 92,
    ListenerOptions: 24,
    ListenerOffsets: 22,
    ServiceCounters: ServiceCounters::ALL.len() * 8,
    Counters: (crate::verdict::Reason::COUNT + Handoff::COUNT + Tracked::COUNT) * 8 + 16,
    Load: 704,
    HalfOpenBucket: 64,
    ValidCookieBucket: 64,
    BudgetLine: 64,
    FlowBucket: 256,
    Listed: 52,
    Sources: 3584,
    TraceLine: 64,
    Event: 16,
}
