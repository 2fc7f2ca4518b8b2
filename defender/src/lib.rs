//! The controller of `defender`: loads the datapath, finds what listens, decides what is challenged, and tells people
//! what is going on.
//!
//! - [`dataplane`] is all that touches eBPF: loading, attaching, maps.
//! - [`host`] is what the kernel tells about this host: listeners, interfaces, addresses, sysctls.
//! - [`control`] brings the two together: which services there are, their modes, keys, addresses.
//! - [`report`] reads one snapshot and shows it as tables or JSON.
//! - [`doctor`] says what this host can and cannot do.
//! - [`cli`] is the command line.

pub mod cli;
pub mod control;
pub mod dataplane;
pub mod doctor;
pub mod host;
pub mod logger;
pub mod problem;
pub mod report;
