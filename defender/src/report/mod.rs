//! What is going on, read once as a [`Snapshot`](snapshot::Snapshot), shown as text or JSON.

pub mod cidr;
pub mod connections;
pub mod conns;
pub mod event;
pub mod evidence;
pub mod explain;
pub mod json;
pub mod lists;
pub mod next_syn;
pub mod peer;
pub mod snapshot;
pub mod table;
pub mod text;
pub mod why;
