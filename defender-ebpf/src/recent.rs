//! Connections whose cookie was accepted a moment ago, see `defender_common::recent`.

use defender_common::{
    abi::{Config, RecentBucket, RecentBuckets, in_place},
    recent::{self, Place, What},
    wire::address::{Address, Flow},
};

use crate::maps::{entry_of, in_place};

/// Remembers a connection. `now` is in milliseconds, here and below.
#[inline(always)]
pub(crate) fn note<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32) {
    let place = recent::place(flow, &config.table_keys);
    recent::note(bucket(&place), place, what, now);
}

/// Whether a connection was noted within the last `window` milliseconds.
#[inline(always)]
pub(crate) fn seen<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32, window: u32) -> bool {
    let place = recent::place(flow, &config.table_keys);
    recent::seen(bucket(&place), place, what, now, window)
}

/// As [`seen`], and forgets it.
#[inline(always)]
pub(crate) fn take<A: Address>(flow: &Flow<A>, config: &Config, what: What, now: u32, window: u32) -> bool {
    let place = recent::place(flow, &config.table_keys);
    recent::take(bucket(&place), place, what, now, window)
}

#[inline(always)]
fn bucket(place: &Place) -> &'static mut RecentBucket {
    let buckets: *mut RecentBuckets = in_place!(in_place::RECENT);
    // SAFETY: an entry of a map's value, of integers; writers on other CPUs may cost an entry, nothing else.
    unsafe { &mut *entry_of(buckets, place.bucket) }
}
