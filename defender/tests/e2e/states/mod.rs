//! TCP states of connections to services: the defender lists what the kernel has, and the wire alone leads to the same.

mod bed;
mod bursts;
mod others;
mod rest;
mod reuse;
mod web;
mod wire;
