//! The last verdicts about a peer, for `defender why`.
//!
//! A fixed array of four-entry lines; a peer has one line, which it shares with others. Two entries are for packets that
//! belong to a connection or prove a cookie ([`Reason::is_proven`]), two for all that anybody can send with a spoofed
//! source, so that a flood cannot push out what proven peers did. Who is pushed out is the older of the two.
//!
//! Several CPUs may write one line at the same time; then counts are lost, or an entry is mixed out of two.

use crate::{
    abi::{TRACE_LINES, TableKeys, TraceEntry, TraceLine},
    clock,
    verdict::Reason,
    wire::address::Address,
};

/// Within how many milliseconds the same verdict about the same peer only counts up.
pub const SAME_MS: u32 = 60_000;

/// How many verdicts on unproven peers each CPU notes in a second (1.024 s). More would push one another out before
/// anybody asks, and each touches a cache line that is not there.
pub const UNPROVEN_PER_SECOND: u32 = 10_000;
const _: () = assert!(
    UNPROVEN_PER_SECOND < crate::filter::LOOKUPS,
    "whom the filter rules out comes after as many strangers as are noted"
);

/// Where a peer's verdicts are kept and by which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the line.
    pub line: u32,
    /// The tag of its entries; never 0.
    pub tag: u32,
}

/// Finds a peer's place. `keys` keep outsiders from choosing addresses that share one.
#[inline(always)]
pub fn place<A: Address>(peer: A, keys: &TableKeys) -> Place {
    let hash = peer.mix(keys);
    Place { line: (hash >> 32) as u32 % TRACE_LINES, tag: hash as u32 | 1 }
}

/// Whether a verdict says anything about its peer: not what every packet of a connection gets.
#[inline(always)]
pub const fn is_worth_it(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Known | Reason::Monitored | Reason::CookieRecent | Reason::ServiceOff | Reason::NotLocal
    )
}

/// A verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the [`Reason`].
    pub reason: u16,
    /// See [`Reason::is_proven`].
    pub is_proven: bool,
    /// The service's port.
    pub port: u16,
}

impl Verdict {
    /// The verdict for this reason.
    #[inline(always)]
    pub const fn of(reason: Reason, port: u16) -> Self {
        Self { reason: reason as u16, is_proven: reason.is_proven(), port }
    }
}

/// Notes a verdict about a peer's packet to a service's port.
#[inline(always)]
pub fn note(line: &mut TraceLine, place: Place, verdict: Verdict, now: u32) {
    let [a, b, c, d] = &mut line.entries;
    let (first, second) = if verdict.is_proven { (a, b) } else { (c, d) };
    let Verdict { reason, port, .. } = verdict;
    let verdict = TraceEntry { tag: place.tag, at: now, reason, port, count: 1 };
    if continues(first, &verdict) {
        count(first, now);
    } else if continues(second, &verdict) {
        count(second, now);
    } else if age(first, now) >= age(second, now) {
        *first = verdict;
    } else {
        *second = verdict;
    }
}

/// Whether a verdict is one more of an entry.
#[inline(always)]
fn continues(entry: &TraceEntry, verdict: &TraceEntry) -> bool {
    entry.tag == verdict.tag
        && entry.reason == verdict.reason
        && entry.port == verdict.port
        && clock::age(entry.at, verdict.at) < SAME_MS
}

#[inline(always)]
fn count(entry: &mut TraceEntry, now: u32) {
    entry.count = entry.count.saturating_add(1);
    entry.at = now;
}

/// An entry's age; an empty one is older than any.
#[inline(always)]
fn age(entry: &TraceEntry, now: u32) -> u32 {
    if entry.tag == 0 { u32::MAX } else { clock::age(entry.at, now) }
}

/// A peer's entries, in no order.
pub fn of_peer(line: &TraceLine, place: Place) -> impl Iterator<Item = &TraceEntry> {
    line.entries.iter().filter(move |entry| entry.tag == place.tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{KEYS, V4, V6};
    use proptest::prelude::*;

    fn place_of(peer: u32) -> Place {
        place(V4(peer), &KEYS)
    }

    /// What is known of a peer: reason, port, count.
    fn known(line: &TraceLine, peer: u32) -> Vec<(Reason, u16, u32)> {
        of_peer(line, place_of(peer))
            .map(|entry| (Reason::from_index(entry.reason).unwrap(), entry.port, entry.count))
            .collect()
    }

    #[test]
    fn the_same_counts_up_and_another_is_apart() {
        let mut line = TraceLine::default();
        assert!(known(&line, 1).is_empty());
        // One CPU's clock is a little behind another's, and the clock wraps.
        for now in [u32::MAX - 50_000, 9_000, 8_999, 9_001] {
            note(&mut line, place_of(1), Verdict::of(Reason::SynChallenged, 443), now);
        }
        assert_eq!(known(&line, 1), [(Reason::SynChallenged, 443, 4)]);
        assert_eq!(of_peer(&line, place_of(1)).next().unwrap().at, 9_001);
        note(&mut line, place_of(1), Verdict::of(Reason::SynChallenged, 80), 9_002);
        note(&mut line, place_of(1), Verdict::of(Reason::Cookie, 443), 9_003);
        note(&mut line, place_of(2), Verdict::of(Reason::Cookie, 443), 9_004);
        let all = [(Reason::Cookie, 443, 1), (Reason::SynChallenged, 443, 4), (Reason::SynChallenged, 80, 1)];
        assert_eq!(known(&line, 1), all);
        assert_eq!(known(&line, 2), all[..1]);
    }

    #[test]
    fn begins_anew_after_a_minute() {
        let mut line = TraceLine::default();
        for now in [1_000, 60_999, 120_999] {
            note(&mut line, place_of(1), Verdict::of(Reason::Known, 443), now);
        }
        assert_eq!(known(&line, 1), [(Reason::Known, 443, 2), (Reason::Known, 443, 1)]);
    }

    #[test]
    fn counts_stay_full() {
        let mut line = TraceLine::default();
        note(&mut line, place_of(1), Verdict::of(Reason::Known, 443), 1);
        line.entries[0].count = u32::MAX;
        note(&mut line, place_of(1), Verdict::of(Reason::Known, 443), 2);
        assert_eq!(known(&line, 1), [(Reason::Known, 443, u32::MAX)]);
    }

    #[test]
    fn a_flood_does_not_push_out_the_proven() {
        let spoofable: Vec<_> = Reason::ALL.into_iter().filter(|reason| !reason.is_proven()).collect();
        let mut line = TraceLine::default();
        note(&mut line, place_of(1), Verdict::of(Reason::Cookie, 443), 1_000);
        for step in 0..100_000 {
            let reason = spoofable[step as usize % spoofable.len()];
            note(&mut line, place_of(2 + step), Verdict::of(reason, step as u16), 1_000 + step);
        }
        assert_eq!(known(&line, 1), [(Reason::Cookie, 443, 1)]);
        // Nor did it take the place of the next one.
        note(&mut line, place_of(0), Verdict::of(Reason::Known, 443), 200_000);
        assert_eq!(known(&line, 1), [(Reason::Cookie, 443, 1)]);
        assert_eq!(known(&line, 0), [(Reason::Known, 443, 1)]);
    }

    #[test]
    fn the_older_is_pushed_out() {
        let mut line = TraceLine::default();
        for (peer, now) in [(1, u32::MAX - 5), (2, u32::MAX - 4), (1, 3), (3, 4)] {
            note(&mut line, place_of(peer), Verdict::of(Reason::SynChallenged, 443), now);
        }
        let counts = [1, 2, 3].map(|peer| known(&line, peer).len());
        assert_eq!(counts, [1, 0, 1]);
    }

    #[test]
    fn places_differ_by_key_and_are_spread() {
        assert_ne!(place(V4(1), &KEYS).tag, place(V4(1), &KEYS.map(|key| !key)).tag);
        assert_ne!(place(V6([1, 2, 3, 4]), &KEYS).tag, place(V6([1, 2, 3, 4]), &KEYS.map(|key| !key)).tag);
        let mut lines = std::collections::HashMap::new();
        let mut places = std::collections::HashSet::new();
        for peer in 0..TRACE_LINES * 4 {
            let place = place(V4(peer.to_be()), &KEYS);
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
        fn the_last_are_found(
            notes in prop::collection::vec((0..6_u32, 0..Reason::COUNT, 0..3_u16, 0..40_000_u32), 1..60),
            start: u32,
        ) {
            let mut line = TraceLine::default();
            let mut now = start;
            let mut last = [None; 2];
            for (peer, index, port, pause) in notes {
                now = now.wrapping_add(pause);
                let (place, reason) = (place_of(peer), Reason::ALL[index]);
                note(&mut line, place, Verdict::of(reason, port), now);
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
