//! Decides what the datapath does: which services there are, in which mode, with which keys, on which interfaces.
//!
//! [`session`] does everything once; [`controller`] does it again whenever something changes.

pub mod attacks;
pub mod baseline;
pub mod config_file;
pub mod controller;
pub mod filter;
pub mod interfaces;
pub mod journal;
pub mod keys;
pub mod lines;
pub mod lists;
pub mod lock;
pub mod outside;
pub mod policy;
pub mod refusals;
pub mod services;
pub mod session;
pub mod settings;
pub mod state;
pub mod sysctls;
pub mod thresholds;
pub mod wall;
