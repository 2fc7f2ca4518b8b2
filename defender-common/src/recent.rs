//! Connections whose cookie was accepted a moment ago.
//!
//! Between the packet that proves a cookie and the socket that the kernel makes of it, further segments of the same
//! connection may pass by, which the socket table does not know yet and whose numbers prove nothing. This small table
//! remembers the connection for that moment; it also keeps two segments of one burst from being handed over both.
//!
//! It is a fixed array of eight-entry buckets; who is pushed out is the oldest. Only proven cookies get in, so a flood
//! of spoofed packets cannot push anybody out. Several CPUs may write one bucket at the same time: then one of the
//! entries is lost, which costs that connection a retransmission and nothing else.

use crate::{
    abi::{RECENT_BUCKETS, RecentBucket, TableKeys},
    wire::address::{Address, Flow},
};

/// How long after its cookie a connection's further segments pass, in milliseconds: a socket is made within the same
/// softirq, so this is generous.
pub const PASS_MS: u32 = 1_000;
/// How long a connection is not handed over again, in milliseconds: well over one softirq, less than a retransmission
/// (200 ms at the least, `TCP_RTO_MIN`).
pub const ASSIGN_MS: u32 = 100;
/// How long after its hand-off a connection's socket is waited for, in milliseconds, to be counted as established.
pub const ESTABLISH_MS: u32 = 10_000;

/// What is remembered of a connection. Each is an entry of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum What {
    /// Its cookie was accepted.
    Proved = 1,
    /// It was assigned to a listener.
    Assigned = 2,
}

/// Where a connection is kept and by which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the bucket.
    pub bucket: u32,
    tag: u32,
}

impl Place {
    /// The tag of an entry in the bucket; never 0.
    #[inline(always)]
    fn tag(self, what: What) -> u32 {
        (self.tag & !3) | what as u32
    }
}

/// Finds a connection's place. `keys` keep outsiders from choosing connections that share one.
#[inline(always)]
pub fn place<A: Address>(flow: &Flow<A>, keys: &TableKeys) -> Place {
    let hash = flow.mix(keys);
    Place { bucket: (hash >> 32) as u32 % RECENT_BUCKETS, tag: hash as u32 }
}

/// Remembers a connection.
#[inline(always)]
pub fn note(bucket: &mut RecentBucket, place: Place, what: What, now: u32) {
    let tag = place.tag(what);
    let mut slot = 0;
    let mut oldest = 0;
    for (index, entry) in bucket.entries.iter().enumerate() {
        if entry.tag == tag {
            slot = index;
            break;
        }
        let age = if entry.tag == 0 { u32::MAX } else { now.wrapping_sub(entry.at) };
        if age > oldest {
            oldest = age;
            slot = index;
        }
    }
    if let Some(entry) = bucket.entries.get_mut(slot & 7) {
        entry.tag = tag;
        entry.at = now;
    }
}

/// Whether a connection was noted within the last `window` milliseconds.
#[inline(always)]
pub fn seen(bucket: &RecentBucket, place: Place, what: What, now: u32, window: u32) -> bool {
    let tag = place.tag(what);
    let mut seen = false;
    for entry in &bucket.entries {
        seen |= entry.tag == tag && now.wrapping_sub(entry.at) < window;
    }
    seen
}

/// As [`seen`], and forgets it.
#[inline(always)]
pub fn take(bucket: &mut RecentBucket, place: Place, what: What, now: u32, window: u32) -> bool {
    let tag = place.tag(what);
    let mut taken = false;
    for entry in &mut bucket.entries {
        if entry.tag == tag {
            taken |= now.wrapping_sub(entry.at) < window;
            entry.tag = 0;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{KEYS, V4};
    use proptest::prelude::*;

    fn place_of(client: u32) -> Place {
        let flow = Flow { source: V4(client), destination: V4(1), source_port: 5, destination_port: 443 };
        place(&flow, &KEYS)
    }

    #[test]
    fn remembered_for_its_time_and_apart() {
        let mut bucket = RecentBucket::default();
        let place = place_of(1);
        assert!(!seen(&bucket, place, What::Proved, 0, PASS_MS));
        note(&mut bucket, place, What::Proved, 1000);
        assert!(seen(&bucket, place, What::Proved, 1000, PASS_MS));
        assert!(seen(&bucket, place, What::Proved, 1999, PASS_MS));
        assert!(!seen(&bucket, place, What::Proved, 2000, PASS_MS));
        assert!(!seen(&bucket, place, What::Assigned, 1000, PASS_MS));
        assert!(!seen(&bucket, place_of(2), What::Proved, 1000, PASS_MS));
        assert!(take(&mut bucket, place, What::Proved, 1001, PASS_MS));
        assert!(!take(&mut bucket, place, What::Proved, 1001, PASS_MS));
    }

    #[test]
    fn places_are_spread() {
        let mut buckets = std::collections::HashMap::new();
        for client in 0..RECENT_BUCKETS * 4 {
            *buckets.entry(place_of(client).bucket).or_insert(0) += 1;
        }
        assert!(buckets.values().all(|count| *count < 20));
        assert!(buckets.len() > RECENT_BUCKETS as usize * 9 / 10);
    }

    proptest! {
        #[test]
        fn the_last_eight_are_kept(clients in prop::collection::vec(any::<u32>(), 1..40), start: u32) {
            let mut bucket = RecentBucket::default();
            let mut now = start;
            for client in &clients {
                now = now.wrapping_add(3);
                note(&mut bucket, place_of(*client), What::Assigned, now);
            }
            let mut last: Vec<u32> = Vec::new();
            for client in clients.iter().rev() {
                if !last.contains(client) && last.len() < 8 {
                    last.push(*client);
                }
            }
            for client in last {
                prop_assert!(seen(&bucket, place_of(client), What::Assigned, now, 1000));
            }
        }
    }
}
