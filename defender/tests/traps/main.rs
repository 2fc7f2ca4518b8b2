//! What goes wrong with SYN cookies in front of a kernel, each with a client that is driven by hand.

mod bursts;
mod ground;
mod hand;
mod lost;
mod reuse;
#[path = "../support/mod.rs"]
mod support;
