//! The last verdicts on a peer, for `defender why`.
//!
//! A fixed array of four-entry lines. A peer has one line, which it shares with others. Two entries are for
//! packets that belong to a connection or prove a cookie ([`Reason::is_proven`]). The other two are for
//! packets that anyone can send with a spoofed source. So a flood cannot evict the verdicts on proven
//! peers. The older entry of the two is evicted.
//!
//! If several CPUs write one line at the same time, counts are lost, or an entry is mixed from two.

use crate::{
    abi::{TRACE_LINES, TableKeys, TraceEntry, TraceLine},
    clock, field,
    shared::Shared,
    verdict::Reason,
    wire::address::Address,
};

/// A repeated verdict on the same peer within this many milliseconds only increments the count.
pub const SAME_MS: u32 = 60_000;

/// How many verdicts on unproven peers each CPU records per second (1.024 s). More would evict one another
/// before anyone reads them, and each touches an uncached line.
pub const UNPROVEN_PER_SECOND: u32 = 10_000;
const _: () = assert!(
    UNPROVEN_PER_SECOND < crate::presence_filter::LOOKUPS,
    "whom the filter rules out comes after as many strangers as are noted"
);

/// Where a peer's verdicts are stored, and their tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSlot {
    /// Index of the line.
    pub line: u32,
    /// The tag of its entries; never 0.
    pub tag: u32,
}

/// The slot of a peer. `keys` keep outsiders from choosing addresses that share one.
#[inline(always)]
pub fn slot<A: Address>(peer: A, keys: &TableKeys) -> TraceSlot {
    let hash = peer.hash(keys);
    TraceSlot { line: (hash >> 32) as u32 % TRACE_LINES, tag: hash as u32 | 1 }
}

/// Whether a verdict is worth recording. Verdicts that nearly every packet of a connection gets are not.
#[inline(always)]
pub const fn is_worth_it(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Established
            | Reason::NotMitigating
            | Reason::MonitorMode
            | Reason::Connection
            | Reason::CookieRecent
            | Reason::ServiceOff
            | Reason::NotLocal
    )
}

/// A verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedVerdict {
    /// Index of the [`Reason`].
    pub reason: u16,
    /// See [`Reason::is_proven`].
    pub is_proven: bool,
    /// The service's port.
    pub port: u16,
}

impl TracedVerdict {
    /// The verdict for this reason.
    #[inline(always)]
    pub const fn of(reason: Reason, port: u16) -> Self {
        Self { reason: reason as u16, is_proven: reason.is_proven(), port }
    }
}

/// Records a verdict on a peer's packet to a service's port.
#[inline(always)]
pub fn note(line: &Shared<TraceLine>, slot: TraceSlot, verdict: TracedVerdict, now: u32) {
    let [a, b, c, d] = field!(line.entries).each();
    let (first, second) = if verdict.is_proven { (a, b) } else { (c, d) };
    let TracedVerdict { reason, port, .. } = verdict;
    let verdict = TraceEntry { tag: slot.tag, at: now, reason, port, count: 1 };
    if continues(first, &verdict) {
        count(first, now);
    } else if continues(second, &verdict) {
        count(second, now);
    } else if age(first, now) >= age(second, now) {
        first.set(verdict);
    } else {
        second.set(verdict);
    }
}

/// Whether a verdict repeats that of an entry.
#[inline(always)]
fn continues(entry: &Shared<TraceEntry>, verdict: &TraceEntry) -> bool {
    let entry = entry.get();
    entry.tag == verdict.tag
        && entry.reason == verdict.reason
        && entry.port == verdict.port
        && clock::age(entry.at, verdict.at) < SAME_MS
}

#[inline(always)]
fn count(entry: &Shared<TraceEntry>, now: u32) {
    field!(entry.count).set(field!(entry.count).get().saturating_add(1));
    field!(entry.at).set(now);
}

/// An entry's age. An empty entry is older than any other.
#[inline(always)]
fn age(entry: &Shared<TraceEntry>, now: u32) -> u32 {
    if field!(entry.tag).get() == 0 { u32::MAX } else { clock::age(field!(entry.at).get(), now) }
}

/// A peer's entries, unordered.
pub fn of_peer(line: &TraceLine, slot: TraceSlot) -> impl Iterator<Item = &TraceEntry> {
    line.entries.iter().filter(move |entry| entry.tag == slot.tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{KEYS, V4, V6};
    use proptest::prelude::*;

    fn place_of(peer: u32) -> TraceSlot {
        slot(V4(peer), &KEYS)
    }

    /// The recorded verdicts on a peer: reason, port, count.
    fn known(line: &TraceLine, peer: u32) -> Vec<(Reason, u16, u32)> {
        of_peer(line, place_of(peer))
            .map(|entry| (Reason::from_index(entry.reason).unwrap(), entry.port, entry.count))
            .collect()
    }

    #[test]
    fn a_repeated_verdict_counts_up_and_another_gets_an_entry() {
        let mut line = TraceLine::default();
        assert!(known(&line, 1).is_empty());
        // One CPU's clock lags a little behind another's, and the clock wraps.
        for now in [u32::MAX - 50_000, 9_000, 8_999, 9_001] {
            note(
                Shared::from_mut(&mut line),
                place_of(1),
                TracedVerdict::of(Reason::SynChallenged, 443),
                now,
            );
        }
        assert_eq!(known(&line, 1), [(Reason::SynChallenged, 443, 4)]);
        assert_eq!(of_peer(&line, place_of(1)).next().unwrap().at, 9_001);
        note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::SynChallenged, 80), 9_002);
        note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::Cookie, 443), 9_003);
        note(Shared::from_mut(&mut line), place_of(2), TracedVerdict::of(Reason::Cookie, 443), 9_004);
        let all = [(Reason::Cookie, 443, 1), (Reason::SynChallenged, 443, 4), (Reason::SynChallenged, 80, 1)];
        assert_eq!(known(&line, 1), all);
        assert_eq!(known(&line, 2), all[..1]);
    }

    #[test]
    fn a_minutes_pause_starts_a_new_count() {
        let mut line = TraceLine::default();
        for now in [1_000, 60_999, 120_999] {
            note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::Connection, 443), now);
        }
        assert_eq!(known(&line, 1), [(Reason::Connection, 443, 2), (Reason::Connection, 443, 1)]);
    }

    #[test]
    fn counts_stay_full() {
        let mut line = TraceLine::default();
        note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::Connection, 443), 1);
        line.entries[0].count = u32::MAX;
        note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::Connection, 443), 2);
        assert_eq!(known(&line, 1), [(Reason::Connection, 443, u32::MAX)]);
    }

    #[test]
    fn a_flood_does_not_evict_proven_peers() {
        let spoofable: Vec<_> = Reason::ALL.into_iter().filter(|reason| !reason.is_proven()).collect();
        let mut line = TraceLine::default();
        note(Shared::from_mut(&mut line), place_of(1), TracedVerdict::of(Reason::Cookie, 443), 1_000);
        for step in 0..100_000 {
            let reason = spoofable[step as usize % spoofable.len()];
            note(
                Shared::from_mut(&mut line),
                place_of(2 + step),
                TracedVerdict::of(reason, step as u16),
                1_000 + step,
            );
        }
        assert_eq!(known(&line, 1), [(Reason::Cookie, 443, 1)]);
        // Nor did it evict the next one.
        note(Shared::from_mut(&mut line), place_of(0), TracedVerdict::of(Reason::Connection, 443), 200_000);
        assert_eq!(known(&line, 1), [(Reason::Cookie, 443, 1)]);
        assert_eq!(known(&line, 0), [(Reason::Connection, 443, 1)]);
    }

    #[test]
    fn the_older_entry_is_evicted() {
        let mut line = TraceLine::default();
        for (peer, now) in [(1, u32::MAX - 5), (2, u32::MAX - 4), (1, 3), (3, 4)] {
            note(
                Shared::from_mut(&mut line),
                place_of(peer),
                TracedVerdict::of(Reason::SynChallenged, 443),
                now,
            );
        }
        let counts = [1, 2, 3].map(|peer| known(&line, peer).len());
        assert_eq!(counts, [1, 0, 1]);
    }

    #[test]
    fn slots_differ_by_key_and_are_spread() {
        assert_ne!(slot(V4(1), &KEYS).tag, slot(V4(1), &KEYS.map(|key| !key)).tag);
        assert_ne!(slot(V6([1, 2, 3, 4]), &KEYS).tag, slot(V6([1, 2, 3, 4]), &KEYS.map(|key| !key)).tag);
        let mut lines = std::collections::HashMap::new();
        let mut places = std::collections::HashSet::new();
        for peer in 0..TRACE_LINES * 4 {
            let place = slot(V4(peer.to_be()), &KEYS);
            assert!(place.line < TRACE_LINES && place.tag != 0);
            *lines.entry(place.line).or_insert(0) += 1;
            places.insert((place.line, place.tag));
        }
        assert!(lines.values().all(|count| *count < 20));
        assert!(lines.len() > TRACE_LINES as usize * 9 / 10);
        assert_eq!(places.len(), TRACE_LINES as usize * 4);
    }

    proptest! {
        #[test]
        fn the_last_verdicts_are_found(
            notes in prop::collection::vec((0..6_u32, 0..Reason::COUNT, 0..3_u16, 0..40_000_u32), 1..60),
            start: u32,
        ) {
            let mut line = TraceLine::default();
            let mut now = start;
            let mut last = [None; 2];
            for (peer, index, port, pause) in notes {
                now = now.wrapping_add(pause);
                let (place, reason) = (place_of(peer), Reason::ALL[index]);
                note(Shared::from_mut(&mut line), place, TracedVerdict::of(reason, port), now);
                last[usize::from(reason.is_proven())] = Some((place, reason, port, now));
                for (place, reason, port, at) in last.into_iter().flatten() {
                    let found = of_peer(&line, place).any(|entry| {
                        entry.at == at && entry.reason == reason as u16 && entry.port == port && entry.count > 0
                    });
                    prop_assert!(found);
                }
            }
        }
    }
}
