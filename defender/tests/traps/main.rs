//! What goes wrong with SYN cookies in front of a kernel, each with a client that is driven by hand.

mod bursts;
mod established;
mod floods;
mod forged;
mod ground;
mod hand;
mod kernel_cookies;
mod lost;
mod modes;
mod options;
mod others;
mod reflection;
mod reuse;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
