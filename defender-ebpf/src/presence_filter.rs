//! The filter that stands in for the socket table in a flood, see `defender_common::presence_filter`. Connections go by their hash
//! (`Flow::hash`).

use defender_common::{
    abi::{Config, FilterBytes, in_place},
    budget,
    presence_filter::{self, LOOKUPS, Noted},
    shared::Shared,
};

use crate::maps::{in_place, shared};

/// Notes a connection that is or may become a socket, and whether its packets are to be followed.
#[inline(always)]
pub(crate) fn note(hash: u64, config: &Config, what: Noted) {
    byte(hash).set(presence_filter::noted(config, what));
}

/// Whether a connection may be in the socket table or the flow table, and what was noted of it then.
#[inline(always)]
pub(crate) fn noted(hash: u64, config: &Config) -> Option<Noted> {
    presence_filter::read(byte(hash).get(), config)
}

/// The byte of a connection.
#[inline(always)]
fn byte(hash: u64) -> &'static Shared<u8> {
    let bytes: *mut FilterBytes = in_place!(in_place::FILTER);
    shared(bytes, presence_filter::place(hash) as u32)
}

/// Whether the socket table need not be asked: it cannot hold the connection. `looked_up` is this CPU's cell.
#[inline(always)]
pub(crate) fn rules_out(hash: u64, config: &Config, looked_up: &Shared<u32>, now: u32) -> bool {
    presence_filter::counts(config, now)
        && noted(hash, config).is_none()
        && budget::charge_cell(looked_up, now) > LOOKUPS
}
