//! The current state, read once as a [`Snapshot`](snapshot::Snapshot) and shown as text or JSON.

pub mod connections;
pub mod conns;
pub mod event;
pub mod explain;
pub mod health;
pub mod json;
pub mod lists;
pub mod next_syn;
pub mod outcome;
pub mod peer;
pub mod snapshot;
pub mod table;
pub mod text;
pub mod why;

/// Version of the JSON shapes. Names may be added, but never change.
pub const VERSION: u32 = 1;
