//! Engines, and the constant that selects one.
//!
//! An engine says how cookies are made, checked and handed over.

/// Name of the constant that holds the number of the engine.
pub const CONSTANT: &str = "ENGINE";
/// Cookies of our own, handed over by `bpf_sk_assign_tcp_reqsk`.
pub const REQSK: u32 = 1;
