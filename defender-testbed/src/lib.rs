//! The testbed: two network namespaces joined by a veth pair, and everything to send, flood, connect and watch there.
//!
//! For the project's tests, its demo and its benchmark; never shipped. It needs root. What it makes it removes, also
//! after a panic or SIGINT, and nothing it sends leaves the namespaces it made:
//!
//! * a flood starts only in a namespace that this process made, and is bounded in packets and in seconds;
//! * addresses are private or documentation addresses that exist in the namespaces only;
//! * sysctls are set in those namespaces only.
//!
//! ```no_run
//! use defender_testbed::{client, server::Server, topology::Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let bed = Topology::new()?;
//! let server = Server::start(&bed.server, bed.server_v4(80))?;
//! let stream = client::connect(&bed.client, server.address(), client::DEADLINE)?;
//! # drop(stream);
//! # Ok(())
//! # }
//! ```

pub mod abi;
pub mod budget;
pub mod capture;
pub mod cleanup;
pub mod client;
pub mod command;
pub mod controller;
pub mod cpu;
pub mod defended;
pub mod flood;
pub mod frame;
pub mod http;
pub mod inject;
pub mod interface;
mod leftovers;
pub mod line;
pub mod meter;
pub mod napi;
pub mod netns;
pub mod programs;
pub mod prometheus;
pub mod server;
mod signal;
pub mod simulated_clients;
pub mod small_flood;
mod socket;
pub mod speed;
pub mod statistics;
pub mod tcp_info;
pub mod topology;
