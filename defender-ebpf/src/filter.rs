//! The filter that stands in for the socket table in a flood, see `defender_common::filter`. Connections go by their hash
//! (`Flow::mix`).

use aya_ebpf::{macros::map, maps::PerCpuArray};
use defender_common::{
    abi::{Config, FILTER_PAGE},
    budget,
    filter::{self, LOOKUPS},
};

use crate::maps::FILTER;

/// Look-ups of strangers in this second, a cell as [`budget::charge`] has it.
#[map]
static LOOKED_UP: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Notes a connection that is or may become a socket.
#[inline(always)]
pub(crate) fn note(hash: u64, config: &Config) {
    let place = filter::place(hash);
    if let Some(page) = FILTER.get_ptr_mut(place.page) {
        // SAFETY: a map value of which one byte is written; whoever else writes it writes as much.
        unsafe { (*page)[place.offset & (FILTER_PAGE - 1)] = filter::noted(config) };
    }
}

/// Whether a connection may be in the socket table or the flow table.
#[inline(always)]
pub(crate) fn may_hold(hash: u64, config: &Config) -> bool {
    let place = filter::place(hash);
    let Some(page) = FILTER.get(place.page) else { return true };
    filter::may_hold(page[place.offset & (FILTER_PAGE - 1)], config)
}

/// Whether the socket table need not be asked: it cannot hold the connection.
#[inline(always)]
pub(crate) fn rules_out(hash: u64, config: &Config, now: u32) -> bool {
    filter::counts(config, now) && !may_hold(hash, config) && !may_look_up(now)
}

/// Charges the budget of look-ups.
#[inline(always)]
fn may_look_up(now: u32) -> bool {
    let Some(cell) = LOOKED_UP.get_ptr_mut(0) else { return true };
    // SAFETY: this CPU's own value; nothing else writes it while the program runs.
    let cell = unsafe { &mut *cell };
    *cell = budget::charge(*cell, now);
    budget::count(*cell) <= LOOKUPS
}
