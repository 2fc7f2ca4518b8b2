//! The filter that stands in for the socket table in a flood, see `defender_common::filter`. Connections go by their hash
//! (`Flow::mix`).

use defender_common::{
    abi::{Config, FilterBytes, in_place},
    budget,
    filter::{self, LOOKUPS, Noted},
};

use crate::maps::{entry_of, in_place};

/// Notes a connection that is or may become a socket, and whether its packets are to be followed.
#[inline(always)]
pub(crate) fn note(hash: u64, config: &Config, what: Noted) {
    // SAFETY: a byte of a map's value; whoever else writes it writes as much.
    unsafe { *byte(hash) = filter::noted(config, what) };
}

/// Whether a connection may be in the socket table or the flow table, and what was noted of it then.
#[inline(always)]
pub(crate) fn noted(hash: u64, config: &Config) -> Option<Noted> {
    // SAFETY: as above.
    filter::read(unsafe { *byte(hash) }, config)
}

/// The byte of a connection.
#[inline(always)]
fn byte(hash: u64) -> *mut u8 {
    let bytes: *mut FilterBytes = in_place!(in_place::FILTER);
    entry_of(bytes, filter::place(hash) as u32)
}

/// Whether the socket table need not be asked: it cannot hold the connection. `looked_up` is this CPU's cell.
#[inline(always)]
pub(crate) fn rules_out(hash: u64, config: &Config, looked_up: &mut u32, now: u32) -> bool {
    filter::counts(config, now) && noted(hash, config).is_none() && !may_look_up(looked_up, now)
}

/// Charges the budget of look-ups.
#[inline(always)]
fn may_look_up(looked_up: &mut u32, now: u32) -> bool {
    *looked_up = budget::charge(*looked_up, now);
    budget::count(*looked_up) <= LOOKUPS
}
