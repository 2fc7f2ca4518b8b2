//! What this host is: its listeners, interfaces, addresses, settings and firewall.
//!
//! Everything is read afresh from the kernel on each call, in the network namespace of the calling thread, and nothing
//! is changed. The calls are synchronous and short; `window` is pure.

pub mod addresses;
mod ethtool;
pub mod firewall;
pub mod links;
pub mod namespace;
mod netdev;
mod netlink;
pub mod sockets;
pub mod ssh;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
pub mod window;
