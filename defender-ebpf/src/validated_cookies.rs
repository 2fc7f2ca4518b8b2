//! Connections whose cookie was accepted a moment ago, see `defender_common::validated_cookies`. They go by their hash (`Flow::hash`).

use defender_common::{
    abi::{ValidCookieBucket, ValidCookieBuckets, in_place},
    shared::Shared,
    validated_cookies::{self, CookieSlot, Progress},
};

use crate::{
    maps::{in_place, shared},
    packet::hidden,
};

/// Remembers a connection. `now` is in milliseconds, here and below. Returns 1 if that is news: a number
/// that the verifier need not follow.
#[inline(always)]
pub(crate) fn note(hash: u64, what: Progress, now: u32) -> usize {
    let slot = validated_cookies::slot(hash);
    hidden(validated_cookies::note(bucket(&slot), slot, what, now) as usize)
}

/// Whether a connection was noted within the last `window` milliseconds; it is forgotten.
#[inline(always)]
pub(crate) fn take(hash: u64, what: Progress, now: u32, window: u32) -> bool {
    let slot = validated_cookies::slot(hash);
    validated_cookies::take(bucket(&slot), slot, what, now, window)
}

/// Whether a connection was assigned within the last [`validated_cookies::ASSIGN_MS`] milliseconds.
#[inline(always)]
pub(crate) fn is_assigned(hash: u64, now: u32) -> bool {
    recently_assigned(hash, now as u64) != 0
}

/// Whether it has proved a cookie within the last [`validated_cookies::PASS_MS`] milliseconds.
#[inline(always)]
pub(crate) fn has_proved(hash: u64, now: u32) -> bool {
    recently_proved(hash, now as u64) != 0
}

// Global functions: so that the ways through them do not multiply with those of their caller.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recently_assigned(hash: u64, now: u64) -> u64 {
    let slot = validated_cookies::slot(hash);
    validated_cookies::seen(bucket(&slot), slot, Progress::Assigned, now as u32, validated_cookies::ASSIGN_MS)
        as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recently_proved(hash: u64, now: u64) -> u64 {
    let slot = validated_cookies::slot(hash);
    validated_cookies::seen(bucket(&slot), slot, Progress::Proved, now as u32, validated_cookies::PASS_MS)
        as u64
}

#[inline(always)]
fn bucket(slot: &CookieSlot) -> &'static Shared<ValidCookieBucket> {
    let buckets: *mut ValidCookieBuckets = in_place!(in_place::VALID_COOKIES);
    shared(buckets, slot.bucket)
}
