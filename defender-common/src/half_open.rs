//! The table of half-open connections: their SYN passed, and the handshake is not complete.
//!
//! An entry names the service and the second it began in. A full bucket evicts its oldest entry, so spoofed SYNs evict one another
//! and nothing else. An evicted connection still counts in [`crate::load`], because the kernel still has it.

use crate::{
    abi::{HALF_OPEN_BUCKETS, HALF_OPEN_ENTRIES, HalfOpenBucket, HalfOpenEntry, Listed},
    field,
    flow::Admitted,
    load::MAX_AGE_BUCKETS,
    shared::Shared,
    tcp_state::State,
};

/// For how many units of 2³⁰ ns an entry counts: as long as age buckets do at the most.
const LIFE: u64 = MAX_AGE_BUCKETS as u64;
/// Older than any that counts.
const FREE: u64 = LIFE + 1;
const INDEX_BITS: u32 = HALF_OPEN_ENTRIES.trailing_zeros();

/// A SYN that comes again later than this many units after the first counts anew: the kernel may have given the first up.
const AGAIN: u64 = 8;

/// `HalfOpenEntry::flags`: mode `auto` would have challenged its SYN, and `monitor` let it pass.
pub const WOULD_CHALLENGE: u8 = 1;

/// Where a connection may be in the table, and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfOpenSlot {
    /// Its bucket.
    pub bucket: u32,
    tag: u64,
}

/// The slot of the connection with this hash ([`crate::wire::address::Flow::hash`]).
#[inline(always)]
pub const fn slot(hash: u64) -> HalfOpenSlot {
    // 0 marks an empty entry.
    HalfOpenSlot { bucket: (hash >> 32) as u32 & (HALF_OPEN_BUCKETS - 1), tag: hash & 0xffff_ffff | 1 }
}

/// Whose an entry of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// The connection's own.
    Own,
    /// Nobody's.
    Free,
    /// Somebody else's.
    Taken,
}

/// The entry of a connection, or the one to put it into: an empty one, else the oldest. `second` is in units of 2³⁰ ns.
#[inline(always)]
pub fn find(bucket: &Shared<HalfOpenBucket>, slot: &HalfOpenSlot, second: u32) -> (usize, Occupant) {
    // Its age, or more than any if it is free, and below it its index: one number to compare. In 64 bits, as registers are.
    let mut best = 0;
    for (at, entry) in field!(bucket.entries).each().iter().enumerate() {
        let entry = entry.get();
        let age = age(&entry, second);
        let is_free = entry.tag == 0 || age > LIFE;
        if entry.tag as u64 == slot.tag && !is_free {
            return (at, Occupant::Own);
        }
        let rank = (if is_free { FREE } else { age }) << INDEX_BITS | at as u64;
        best = if rank > best { rank } else { best };
    }
    let occupant = if best >> INDEX_BITS == FREE { Occupant::Free } else { Occupant::Taken };
    (best as usize % HALF_OPEN_ENTRIES, occupant)
}

/// How old an entry is, in units of 2³⁰ ns; 0 if another CPU's clock was a moment ahead.
#[inline(always)]
const fn age(entry: &HalfOpenEntry, second: u32) -> u64 {
    let age = (second as u64).wrapping_sub(entry.began as u64);
    if age == u64::MAX { 0 } else { age }
}

#[inline(always)]
fn entry(bucket: &Shared<HalfOpenBucket>, index: usize) -> &Shared<HalfOpenEntry> {
    field!(bucket.entries[index & (HALF_OPEN_ENTRIES - 1)])
}

/// Entry `index` of a bucket.
#[inline(always)]
pub fn get(bucket: &Shared<HalfOpenBucket>, index: usize) -> HalfOpenEntry {
    entry(bucket, index).get()
}

/// Whether a SYN is a retransmission of the entry's.
#[inline(always)]
pub fn repeats(entry: &HalfOpenEntry, next_in: u32, second: u32) -> bool {
    entry.next_in == next_in && age(entry, second) <= AGAIN
}

/// Puts a connection into entry `index`: its SYN had this sequence number.
#[inline(always)]
pub fn put(bucket: &Shared<HalfOpenBucket>, index: usize, slot: &HalfOpenSlot, value: HalfOpenEntry) {
    entry(bucket, index).set(HalfOpenEntry { tag: slot.tag as u32, packets: 1, ..value });
}

/// Counts a packet of entry `index`.
#[inline(always)]
pub fn count(bucket: &Shared<HalfOpenBucket>, index: usize) {
    let entry = entry(bucket, index);
    let packets = field!(entry.packets);
    packets.set(packets.get().saturating_add(1));
}

/// Frees entry `index`.
#[inline(always)]
pub fn free(bucket: &Shared<HalfOpenBucket>, index: usize) {
    let entry = entry(bucket, index);
    field!(entry.tag).set(0);
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
        let bucket = &Shared::new(HalfOpenBucket::default());
        let mut places = Vec::new();
        for number in 0..HALF_OPEN_ENTRIES as u32 {
            let place = HalfOpenSlot { bucket: 0, tag: 10 + number as u64 };
            let (index, slot) = find(bucket, &place, 100 + number);
            assert_eq!(slot, Occupant::Free);
            put(bucket, index, &place, entry(100 + number));
            places.push((place, index));
        }
        for (place, index) in &places {
            assert_eq!(find(bucket, place, 110), (*index, Occupant::Own));
        }
        let stranger = HalfOpenSlot { tag: 99, ..places[0].0 };
        assert_eq!(find(bucket, &stranger, 110), (places[0].1, Occupant::Taken));
        // A clock that is a moment behind makes nobody old.
        assert_eq!(find(bucket, &places[3].0, 102), (places[3].1, Occupant::Own));
        assert_eq!(find(bucket, &stranger, 101 + LIFE as u32).1, Occupant::Free);
        assert_eq!(find(bucket, &places[0].0, 101 + LIFE as u32), (places[0].1, Occupant::Free));
    }

    #[test]
    fn only_a_syn_that_comes_soon_again_is_a_repetition() {
        let entry = entry(100);
        assert!(repeats(&entry, 7, 100) && repeats(&entry, 7, 100 + AGAIN as u32));
        assert!(!repeats(&entry, 8, 100) && !repeats(&entry, 7, 101 + AGAIN as u32));
    }

    #[test]
    fn an_entry_is_described_and_freed() {
        let bucket = &Shared::new(HalfOpenBucket::default());
        let place = slot(0x1234_5678_9abc_def0);
        put(bucket, 2, &place, entry(5));
        count(bucket, 2);
        let mut line = Listed::default();
        describe(&get(bucket, 2), &mut line);
        assert_eq!((line.wire_state, line.packets, line.began), (State::SynRecv as u8, 2, 5));
        free(bucket, 2);
        assert_eq!(find(bucket, &place, 5).1, Occupant::Free);
    }

    #[test]
    fn places_are_within_and_tags_never_empty() {
        for hash in [0, 1, u64::MAX, 0x8000_0000_0000_0000, 0xffff_ffff_0000_0000] {
            let place = slot(hash);
            assert!(place.bucket < HALF_OPEN_BUCKETS && place.tag != 0);
        }
    }
}
