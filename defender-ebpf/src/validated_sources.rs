//! Sources that have completed a handshake not long ago, see `defender_common::validated_sources`.

use defender_common::{
    abi::{Config, ValidSourceBytes, in_place},
    shared::Shared,
    validated_sources,
    wire::address::Address,
};

use crate::{
    clock,
    maps::{in_place, shared},
};

/// Notes a source that has completed a handshake.
#[inline(always)]
pub(crate) fn note<A: Address>(source: A, config: &Config, second: u32) {
    for place in validated_sources::places(source, &config.table_keys) {
        byte(place).set(validated_sources::noted(second));
    }
}

/// Whether a source is known whose places these are, the first in the upper half.
#[inline(always)]
pub(crate) fn are_validated(places: u64) -> bool {
    let [first, second] = [places >> 32, places].map(|place| byte(place as u32).get());
    // In a flood of strangers nobody needs the clock.
    first != 0 && second != 0 && {
        let now = clock::epoch();
        validated_sources::is_known(first, now) && validated_sources::is_known(second, now)
    }
}

#[inline(always)]
fn byte(place: u32) -> &'static Shared<u8> {
    let bytes: *mut ValidSourceBytes = in_place!(in_place::VALID_SOURCES);
    shared(bytes, place)
}
