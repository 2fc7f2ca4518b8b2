//! Connections whose cookie was valid a moment ago.
//!
//! Between the packet that proves a cookie and the socket that the kernel makes of it, further segments of the connection may
//! arrive. The socket table does not know them yet, and their numbers prove nothing. This table remembers the connection for that
//! moment. It also keeps two segments of one burst from both being assigned.
//!
//! It is a fixed array of eight-entry buckets, and the oldest entry is evicted. Only valid cookies get in, so a flood of spoofed
//! packets evicts nothing. If several CPUs write one bucket at the same time, an entry is lost, which costs that connection a
//! retransmission.

use crate::{
    abi::{VALID_COOKIE_BUCKETS, ValidCookie, ValidCookieBucket},
    field,
    shared::Shared,
};

/// How long after its cookie a connection's further segments pass, in milliseconds: a socket is made within the same
/// softirq, so this is generous.
pub const PASS_MS: u32 = 1_000;
/// How long a connection is not handed over again, in milliseconds: well over one softirq, less than a retransmission
/// (200 ms at the least, `TCP_RTO_MIN`).
pub const ASSIGN_MS: u32 = 100;
/// How long after its hand-off a connection's socket is waited for, in milliseconds, to be counted as established.
pub const ESTABLISH_MS: u32 = 10_000;

/// How far a connection has come. Each step is an entry of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Progress {
    /// Its cookie was accepted.
    Proved = 1,
    /// It was assigned to a listener.
    Assigned = 2,
}

/// Where a connection is kept, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieSlot {
    /// Index of the bucket.
    pub bucket: u32,
    hash: u64,
}

impl CookieSlot {
    /// The tag of an entry in the bucket; never 0.
    #[inline(always)]
    fn tag(self, what: Progress) -> u64 {
        self.hash & 0xffff_fffc | what as u64
    }
}

/// The slot of the connection with this hash ([`crate::wire::address::Flow::hash`]).
#[inline(always)]
pub fn slot(hash: u64) -> CookieSlot {
    CookieSlot { bucket: (hash >> 32) as u32 % VALID_COOKIE_BUCKETS, hash }
}

/// Remembers a connection. Returns whether it was not remembered before.
#[inline(always)]
pub fn note(bucket: &Shared<ValidCookieBucket>, of: CookieSlot, what: Progress, now: u32) -> bool {
    let tag = of.tag(what);
    let mut slot = 0;
    let mut oldest = 0;
    let mut is_new = true;
    for (index, entry) in field!(bucket.entries).each().iter().enumerate() {
        let entry = entry.get();
        if entry.tag as u64 == tag {
            slot = index;
            is_new = false;
            break;
        }
        let age = if entry.tag == 0 { u32::MAX } else { now.wrapping_sub(entry.at) };
        if age > oldest {
            oldest = age;
            slot = index;
        }
    }
    field!(bucket.entries[slot & 7]).set(ValidCookie { tag: tag as u32, at: now });
    is_new
}

/// Whether a connection was noted within the last `window` milliseconds.
#[inline(always)]
pub fn seen(
    bucket: &Shared<ValidCookieBucket>,
    of: CookieSlot,
    what: Progress,
    now: u32,
    window: u32,
) -> bool {
    let tag = of.tag(what);
    let mut seen = false;
    for entry in field!(bucket.entries).each() {
        let entry = entry.get();
        seen |= entry.tag as u64 == tag && now.wrapping_sub(entry.at) < window;
    }
    seen
}

/// As [`seen`], and forgets it.
#[inline(always)]
pub fn take(
    bucket: &Shared<ValidCookieBucket>,
    of: CookieSlot,
    what: Progress,
    now: u32,
    window: u32,
) -> bool {
    let tag = of.tag(what);
    let mut taken = false;
    for entry in field!(bucket.entries).each() {
        if field!(entry.tag).get() as u64 == tag {
            taken |= now.wrapping_sub(field!(entry.at).get()) < window;
            field!(entry.tag).set(0);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{Flow, KEYS, V4};
    use proptest::prelude::*;

    fn place_of(client: u32) -> CookieSlot {
        let flow = Flow { source: V4(client), destination: V4(1), source_port: 5, destination_port: 443 };
        slot(flow.hash(&KEYS))
    }

    #[test]
    fn remembered_for_its_time_and_apart() {
        let bucket = &Shared::new(ValidCookieBucket::default());
        let place = place_of(1);
        assert!(!seen(bucket, place, Progress::Proved, 0, PASS_MS));
        assert!(note(bucket, place, Progress::Proved, 900));
        assert!(!note(bucket, place, Progress::Proved, 1000));
        assert!(seen(bucket, place, Progress::Proved, 1000, PASS_MS));
        assert!(seen(bucket, place, Progress::Proved, 1999, PASS_MS));
        assert!(!seen(bucket, place, Progress::Proved, 2000, PASS_MS));
        assert!(!seen(bucket, place, Progress::Assigned, 1000, PASS_MS));
        assert!(!seen(bucket, place_of(2), Progress::Proved, 1000, PASS_MS));
        assert!(take(bucket, place, Progress::Proved, 1001, PASS_MS));
        assert!(!take(bucket, place, Progress::Proved, 1001, PASS_MS));
        assert!(note(bucket, place, Progress::Proved, 1001), "forgotten");
    }

    #[test]
    fn places_are_spread() {
        let mut buckets = std::collections::HashMap::new();
        for client in 0..VALID_COOKIE_BUCKETS * 4 {
            *buckets.entry(place_of(client).bucket).or_insert(0) += 1;
        }
        assert!(buckets.values().all(|count| *count < 20));
        assert!(buckets.len() > VALID_COOKIE_BUCKETS as usize * 9 / 10);
    }

    proptest! {
        #[test]
        fn the_last_eight_are_kept(clients in prop::collection::vec(any::<u32>(), 1..40), start: u32) {
            let bucket = &Shared::new(ValidCookieBucket::default());
            let mut now = start;
            for client in &clients {
                now = now.wrapping_add(3);
                note(bucket, place_of(*client), Progress::Assigned, now);
            }
            let mut last: Vec<u32> = Vec::new();
            for client in clients.iter().rev() {
                if !last.contains(client) && last.len() < 8 {
                    last.push(*client);
                }
            }
            for client in last {
                prop_assert!(seen(bucket, place_of(client), Progress::Assigned, now, 1000));
            }
        }
    }
}
