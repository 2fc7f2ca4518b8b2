//! The controller of `defender`: loads the datapath, finds what listens, decides what is challenged, and tells people
//! what is going on.
//!
//! From the top; imports go down only (`tests/structure.rs`):
//!
//! - [`cli`] is the command line.
//! - [`control`] is what is done and when; [`report`] reads one snapshot and shows it as tables or JSON.
//! - [`doctor`] says what this host can and cannot do; [`state`] is the files: directory, locks, journal, settings, lists.
//! - [`dataplane`] is all that touches eBPF: loading, attaching, maps.
//! - [`host`] is what the kernel says about this host: listeners, interfaces, addresses, sysctls, firewall.
//! - [`model`] is plain values and rules: settings, thresholds, attacks, baselines, services.

// They panic where the reader has gone: `cli::output` and `logger` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod control;
pub mod dataplane;
pub mod doctor;
pub mod files;
pub mod host;
pub mod logger;
pub mod model;
pub mod problem;
pub mod report;
pub mod state;
