//! End to end: the defender in network namespaces, with real servers, clients and floods.
//!
//! Each theme is a module; `harness` is what they share. The tests need root, and run one at a time (`--test-threads=1`).
//! `cargo xtask test` runs the busy modules in one process, and all others in a second one beside it.

mod auto;
mod command_line;
mod conntrack;
mod environments;
mod faults;
mod firewall;
mod harness;
mod hostile;
mod lifecycle;
mod listeners;
mod lists;
mod operator;
mod options;
mod presence_filter;
mod regressions;
mod round_trip;
mod service;
mod shell;
mod states;
mod systemd;
mod terminal;
