//! The filter that stands in for the socket table in a flood, see `defender_common::filter`. Connections go by their hash
//! (`Flow::mix`).

use defender_common::{
    abi::{Config, FILTER_PAGE},
    budget,
    filter::{self, LOOKUPS, Noted},
};

use crate::maps::FILTER;

/// Notes a connection that is or may become a socket, and whether its packets are to be followed.
#[inline(always)]
pub(crate) fn note(hash: u64, config: &Config, what: Noted) {
    let place = filter::place(hash);
    if let Some(page) = FILTER.get_ptr_mut(place.page) {
        // SAFETY: a map value of which one byte is written; whoever else writes it writes as much.
        unsafe { (*page)[place.offset & (FILTER_PAGE - 1)] = filter::noted(config, what) };
    }
}

/// Whether a connection may be in the socket table or the flow table, and what was noted of it then.
#[inline(always)]
pub(crate) fn noted(hash: u64, config: &Config) -> Option<Noted> {
    let place = filter::place(hash);
    let Some(page) = FILTER.get(place.page) else { return Some(Noted::Followed) };
    filter::read(page[place.offset & (FILTER_PAGE - 1)], config)
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
