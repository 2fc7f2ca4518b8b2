//! The host: its listeners, interfaces, addresses, settings and firewall.
//!
//! Each call reads the current state from the kernel, in the calling thread's network namespace, and
//! changes nothing. Calls are synchronous and short.

pub mod addresses;
mod ethtool;
pub mod firewall;
pub mod hooks;
pub mod links;
pub mod namespace;
mod netdev;
mod netlink;
pub mod process;
pub mod random;
pub mod routes;
pub mod service_manager;
pub mod service_names;
pub mod sockets;
pub mod ssh;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
pub mod tool;
pub mod vips;
pub mod wall_clock;
