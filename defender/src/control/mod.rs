//! Decides what the datapath does: which services there are, in which mode, with which keys, on which interfaces.
//!
//! [`session`] does everything once; [`controller`] does it again whenever something changes.

pub mod admin;
pub mod attack_view;
pub mod controller;
pub mod firewall;
pub mod interface_choice;
pub mod interfaces;
pub mod recovery;
pub mod reload;
pub mod session;
pub mod succession;
pub mod sysctl_watch;
