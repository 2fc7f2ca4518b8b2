//! Connections whose cookie was accepted a moment ago, see `defender_common::recent`.

use defender_common::{
    abi::Config,
    recent::{self, What},
    wire::address::{Address, Flow},
};

use crate::maps::RECENT;

/// Remembers a connection. `now` is in milliseconds, here and below.
#[inline(always)]
pub(crate) fn note<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32) {
    let place = recent::place(flow, &config.table_keys);
    if let Some(bucket) = RECENT.get_ptr_mut(place.bucket) {
        // SAFETY: a map value; writers on other CPUs may cost an entry, nothing else.
        recent::note(unsafe { &mut *bucket }, place, what, now);
    }
}

/// Whether a connection was noted within the last `window` milliseconds.
#[inline(always)]
pub(crate) fn seen<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32, window: u32) -> bool {
    let place = recent::place(flow, &config.table_keys);
    let Some(bucket) = RECENT.get(place.bucket) else { return false };
    recent::seen(bucket, place, what, now, window)
}

/// As [`seen`], and forgets it.
#[inline(always)]
pub(crate) fn take<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32, window: u32) -> bool {
    let place = recent::place(flow, &config.table_keys);
    let Some(bucket) = RECENT.get_ptr_mut(place.bucket) else { return false };
    // SAFETY: as above.
    recent::take(unsafe { &mut *bucket }, place, what, now, window)
}
