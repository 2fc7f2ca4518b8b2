//! The table of half-open connections: whose SYN passed, and no handshake is complete.
//!
//! An entry names the service and the second it began in, so that whoever takes it out can take it out of the service's
//! [`crate::load`] as well. A full bucket pushes out its oldest: spoofed SYNs meet one another here and nobody else. Who
//! was pushed out stays counted until its second is over, because the kernel still has it.

use crate::{
    abi::{HALF_OPEN_BUCKETS, HALF_OPEN_ENTRIES, HalfOpenBucket, HalfOpenEntry, Listed},
    flow::Admitted,
    load::MOST_COHORTS,
    tcp_state::State,
};

/// For how many units of 2³⁰ ns an entry counts: as long as cohorts do at the most.
const LIFE: u32 = MOST_COHORTS;

/// A SYN that comes again later than this many units after the first counts anew: the kernel may have given the first up.
const AGAIN: u32 = 8;

/// `HalfOpenEntry::flags`: mode `auto` would have challenged its SYN, and `monitor` let it pass.
pub const WOULD_CHALLENGE: u8 = 1;

/// Where a connection may be in the table, and by which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its bucket.
    pub bucket: u32,
    tag: u32,
}

/// Finds the place of the connection with this hash ([`crate::wire::address::Flow::mix`]).
#[inline(always)]
pub const fn place(hash: u64) -> Place {
    // 0 marks an empty entry.
    Place { bucket: (hash >> 32) as u32 & (HALF_OPEN_BUCKETS - 1), tag: hash as u32 | 1 }
}

/// What an entry of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The connection's own.
    Own,
    /// Nobody's.
    Free,
    /// Somebody else's.
    Taken,
}

/// The entry of a connection, or the one to put it into: an empty one, else the oldest. `second` is in units of 2³⁰ ns.
#[inline(always)]
pub fn slot(bucket: &HalfOpenBucket, place: &Place, second: u32) -> (usize, Slot) {
    let (mut index, mut oldest) = (0, 0);
    let mut slot = Slot::Taken;
    for (at, entry) in bucket.entries.iter().enumerate() {
        let age = age(entry, second);
        let free = entry.tag == 0 || age > LIFE;
        if entry.tag == place.tag && !free {
            return (at, Slot::Own);
        }
        let rank = if free { u32::MAX } else { age };
        if rank >= oldest {
            (index, oldest) = (at, rank);
            slot = if free { Slot::Free } else { Slot::Taken };
        }
    }
    (index, slot)
}

/// How old an entry is, in units of 2³⁰ ns; 0 if another CPU's clock was a moment ahead.
#[inline(always)]
fn age(entry: &HalfOpenEntry, second: u32) -> u32 {
    let age = second.wrapping_sub(entry.began);
    if age == u32::MAX { 0 } else { age }
}

/// Entry `index` of a bucket.
#[inline(always)]
pub const fn get(bucket: &HalfOpenBucket, index: usize) -> HalfOpenEntry {
    bucket.entries[index & (HALF_OPEN_ENTRIES - 1)]
}

/// Whether a SYN is a repetition of the one that an entry is of.
#[inline(always)]
pub fn repeats(entry: &HalfOpenEntry, next_in: u32, second: u32) -> bool {
    entry.next_in == next_in && age(entry, second) <= AGAIN
}

/// Puts a connection into entry `index`: its SYN had this sequence number.
#[inline(always)]
pub fn put(bucket: &mut HalfOpenBucket, index: usize, place: &Place, entry: HalfOpenEntry) {
    bucket.entries[index & (HALF_OPEN_ENTRIES - 1)] = HalfOpenEntry { tag: place.tag, packets: 1, ..entry };
}

/// Counts a packet of entry `index`.
#[inline(always)]
pub fn count(bucket: &mut HalfOpenBucket, index: usize) {
    let entry = &mut bucket.entries[index & (HALF_OPEN_ENTRIES - 1)];
    entry.packets = entry.packets.saturating_add(1);
}

/// Makes entry `index` nobody's.
#[inline(always)]
pub fn free(bucket: &mut HalfOpenBucket, index: usize) {
    bucket.entries[index & (HALF_OPEN_ENTRIES - 1)].tag = 0;
}

/// Adds what an entry has to a line of a listing.
#[inline(always)]
pub fn describe(entry: &HalfOpenEntry, line: &mut Listed) {
    line.wire_state = State::SynRecv as u8;
    line.admitted = Admitted::Handshake as u8;
    line.packets = entry.packets as u32;
    line.began = entry.began;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(began: u32) -> HalfOpenEntry {
        HalfOpenEntry { began, next_in: 7, service: 3, ..HalfOpenEntry::default() }
    }

    #[test]
    fn the_oldest_is_pushed_out() {
        let mut bucket = HalfOpenBucket::default();
        let mut places = Vec::new();
        for number in 0..HALF_OPEN_ENTRIES as u32 {
            let place = Place { bucket: 0, tag: 10 + number };
            let (index, slot) = slot(&bucket, &place, 100 + number);
            assert_eq!(slot, Slot::Free);
            put(&mut bucket, index, &place, entry(100 + number));
            places.push((place, index));
        }
        for (place, index) in &places {
            assert_eq!(slot(&bucket, place, 110), (*index, Slot::Own));
        }
        let stranger = Place { tag: 99, ..places[0].0 };
        assert_eq!(slot(&bucket, &stranger, 110), (places[0].1, Slot::Taken));
        // A clock that is a moment behind makes nobody old.
        assert_eq!(slot(&bucket, &places[3].0, 102), (places[3].1, Slot::Own));
        assert_eq!(slot(&bucket, &stranger, 101 + LIFE).1, Slot::Free);
        assert_eq!(slot(&bucket, &places[0].0, 101 + LIFE), (places[0].1, Slot::Free));
    }

    #[test]
    fn only_a_syn_that_comes_soon_again_is_a_repetition() {
        let entry = entry(100);
        assert!(repeats(&entry, 7, 100) && repeats(&entry, 7, 100 + AGAIN));
        assert!(!repeats(&entry, 8, 100) && !repeats(&entry, 7, 101 + AGAIN));
    }

    #[test]
    fn an_entry_is_described_and_freed() {
        let mut bucket = HalfOpenBucket::default();
        let place = place(0x1234_5678_9abc_def0);
        put(&mut bucket, 2, &place, entry(5));
        count(&mut bucket, 2);
        let mut line = Listed::default();
        describe(&get(&bucket, 2), &mut line);
        assert_eq!((line.wire_state, line.packets, line.began), (State::SynRecv as u8, 2, 5));
        free(&mut bucket, 2);
        assert_eq!(slot(&bucket, &place, 5).1, Slot::Free);
    }

    #[test]
    fn places_are_within_and_tags_never_empty() {
        for hash in [0, 1, u64::MAX, 0x8000_0000_0000_0000, 0xffff_ffff_0000_0000] {
            let place = place(hash);
            assert!(place.bucket < HALF_OPEN_BUCKETS && place.tag != 0);
        }
    }
}
