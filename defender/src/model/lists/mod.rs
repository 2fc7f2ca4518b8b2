//! The lists of prefixes whose SYNs always pass or are always dropped.

pub mod entry;
pub mod expiry;
pub mod file;
pub mod note;
pub mod plan;
