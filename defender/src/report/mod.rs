//! What is going on, read once as a [`Snapshot`](snapshot::Snapshot), shown as text or JSON.

pub mod connections;
pub mod evidence;
pub mod json;
pub mod snapshot;
pub mod table;
pub mod text;
