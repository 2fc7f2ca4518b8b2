//! The current state, read once as a [`Snapshot`](snapshot::Snapshot) and shown as text or JSON.

pub mod connection_list;
pub mod conns;
pub mod event;
pub mod explain;
pub mod health;
pub mod json;
pub mod lists;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod namespace;
pub mod next_syn;
#[cfg(any(feature = "metrics", feature = "top"))]
mod open_maps;
pub mod outcome;
pub mod peer;
pub mod snapshot;
pub mod table;
pub mod text;
#[cfg(feature = "top")]
pub mod top;
pub mod why;

/// Version of the JSON shapes. Names may be added, but never change.
pub const VERSION: u32 = 1;
