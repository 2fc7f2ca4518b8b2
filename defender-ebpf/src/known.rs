//! Sources that have completed a handshake not long ago, see `defender_common::known`.

use defender_common::{
    abi::{Config, KNOWN_PAGE},
    known,
    wire::address::Address,
};

use crate::maps::KNOWN;

/// Notes a source that has completed a handshake.
#[inline(always)]
pub(crate) fn note<A: Address>(source: A, config: &Config, second: u32) {
    for place in known::places(source, &config.table_keys) {
        if let Some(page) = KNOWN.get_ptr_mut(place.page) {
            // SAFETY: a map value of which one byte is written; whoever else writes it writes as much.
            unsafe { (*page)[place.offset & (KNOWN_PAGE - 1)] = known::noted(second) };
        }
    }
}

/// Whether a source is known.
#[inline(always)]
pub(crate) fn is_known<A: Address>(source: A, config: &Config, second: u32) -> bool {
    known::places(source, &config.table_keys).into_iter().all(|place| {
        KNOWN
            .get(place.page)
            .is_some_and(|page| known::is_known(page[place.offset & (KNOWN_PAGE - 1)], second))
    })
}
