//! The states of connections to services: what the defender says about each is what the kernel says, and what the wire
//! alone tells is the same.

mod bed;
mod bursts;
#[path = "../traps/ground.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod ground;
#[path = "../traps/hand.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod hand;
mod others;
mod rest;
mod reuse;
#[path = "../support/mod.rs"]
mod support;
mod web;
mod wire;
