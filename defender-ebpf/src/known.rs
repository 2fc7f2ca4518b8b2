//! Sources that have completed a handshake not long ago, see `defender_common::known`.

use defender_common::{
    abi::{Config, KnownBytes, in_place},
    known,
    wire::address::Address,
};

use crate::maps::{entry_of, in_place};

/// Notes a source that has completed a handshake.
#[inline(always)]
pub(crate) fn note<A: Address>(source: A, config: &Config, second: u32) {
    for place in known::places(source, &config.table_keys) {
        // SAFETY: a byte of a map's value; whoever else writes it writes as much.
        unsafe { *byte(place) = known::noted(second) };
    }
}

/// Whether a source is known.
#[inline(always)]
pub(crate) fn is_known<A: Address>(source: A, config: &Config, second: u32) -> bool {
    let places = known::places(source, &config.table_keys);
    // SAFETY: as above.
    places.into_iter().all(|place| known::is_known(unsafe { *byte(place) }, second))
}

#[inline(always)]
fn byte(place: u32) -> *mut u8 {
    let bytes: *mut KnownBytes = in_place!(in_place::KNOWN);
    entry_of(bytes, place)
}
