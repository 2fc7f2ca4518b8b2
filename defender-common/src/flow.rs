//! The flow table: what packets tell of each connection to a service.
//!
//! The kernel's socket table says whether a connection exists, and whose it is. The flow table has what only packets tell: its
//! age, how it was admitted, and its state on the wire. So an entry needs no addresses. A tag of 31 bits of a keyed hash finds
//! it; with the bucket's number, two connections are confused once in 2⁴⁰ or more. An entry has 32 bytes, and eight fill a bucket
//! of four cache lines, of which a look-up touches one.
//!
//! A connection has two buckets. It enters the first, or the emptier one if the first is filling up. So the table takes nearly
//! as many connections as it has entries. A connection whose buckets are both full is not tracked. Nothing evicts an entry,
//! unless its timer has run out and nothing reports its end.
//!
//! *Established* connections without a FIN under way are not followed packet by packet: only a SYN, FIN or RST changes them. Their
//! sequence numbers are therefore out of date, and a client's FIN counts when the server acknowledges it. The kernel's socket
//! counts their packets. An entry has the difference: the packets before there was a socket, less what the socket had counted then.
//! Once the socket is gone ([`NO_SOCKET`]), the entry has the whole count.
//!
//! Entries carry the presence filter's generation ([`crate::presence_filter`]), which the socket iterator renews. An entry of a
//! generation that is over is free: the kernel no longer has its connection.
//!
//! Half-open connections have a table of their own ([`crate::half_open`]). If two CPUs write one bucket at the same time, an entry
//! is lost until the next socket iteration.

use crate::{
    abi::{Config, FLOW_ENTRIES, FlowBucket, FlowCold, FlowHot, Listed},
    field, presence_filter,
    presence_filter::Noted,
    shared::Shared,
    tcp_state::{ObservedSegment, State, TRACK_FIN_IN, TRACK_NEXT_IN, Track},
    wire::tcp::{FIN, RST, SYN},
};

/// Of an entry's flags, beside those of [`crate::tcp_state`]: its connection has no socket any more, or none that counts
/// segments.
pub const NO_SOCKET: u8 = 1 << 7;

/// From this many connections on in the first bucket, the second may be better.
const FILLING: usize = FLOW_ENTRIES - 3;

/// How a connection came to be; the value of [`FlowHot::admitted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Admitted {
    /// Its SYN passed, and the kernel completed the handshake.
    Handshake = 1,
    /// It proved a cookie and was handed over.
    Cookie = 2,
    /// The kernel had it when it was first seen.
    Learnt = 3,
}

impl Admitted {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Handshake, Self::Cookie, Self::Learnt];

    /// The way with this number.
    pub fn from_abi(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|way| *way as u8 == number)
    }

    /// As listings name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Cookie => "cookie",
            Self::Learnt => "learnt",
        }
    }
}

/// Where a connection may be in the table, and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSlot {
    /// The buckets it may be in.
    pub buckets: [u32; 2],
    tag: u32,
}

/// The slot of the connection with this hash ([`crate::wire::address::Flow::hash`]) in a table of
/// `bucket_mask + 1` buckets.
#[inline(always)]
pub const fn slot(hash: u64, bucket_mask: u32) -> FlowSlot {
    // 0 marks an empty entry.
    let tag = hash as u32 | 1;
    let first = (hash >> 32) as u32;
    let second = first ^ tag.wrapping_mul(0x9e37_79b1);
    FlowSlot { buckets: [first & bucket_mask, second & bucket_mask], tag }
}

/// The entry of a connection in a bucket: its number, or [`FLOW_ENTRIES`] if it is not there.
#[inline(always)]
pub fn find(bucket: &Shared<FlowBucket>, slot: &FlowSlot, config: &Config) -> usize {
    for (index, hot) in field!(bucket.hot).each().iter().enumerate() {
        if field!(hot.tag).get() == slot.tag
            && presence_filter::may_hold(field!(hot.generation).get(), config)
        {
            return index;
        }
    }
    FLOW_ENTRIES
}

/// How many entries of a bucket are taken, and the number of one to put a connection into ([`FLOW_ENTRIES`] if there is
/// none): a free one, else one whose timer has run out and whose end nothing reports. The socket iterator frees those within ten
/// seconds; without a controller they would fill the table.
#[inline(always)]
pub fn room(bucket: &Shared<FlowBucket>, config: &Config, now: u32) -> (usize, usize) {
    let (mut taken, mut free, mut over) = (0, FLOW_ENTRIES, FLOW_ENTRIES);
    // From the last to the first, which is found fastest: that is taken where several are free.
    for nth in 1..=FLOW_ENTRIES {
        let index = FLOW_ENTRIES - nth;
        let hot = field!(bucket.hot[index]);
        if field!(hot.tag).get() == 0 || !presence_filter::may_hold(field!(hot.generation).get(), config) {
            free = index;
            continue;
        }
        taken += 1;
        let track = load(bucket, index);
        if !track.state.ends_heard() && track.is_due(now) {
            over = index;
        }
    }
    (taken, if free < FLOW_ENTRIES { free } else { over })
}

/// The number of connections in each of a connection's buckets, and the numbers of entries to put it into, as [`room`] has
/// them: says which of the two it enters.
#[inline(always)]
pub const fn enters([(first, free), (second, free_too)]: [(usize, usize); 2]) -> (usize, usize) {
    if first < FILLING || first <= second { (0, free) } else { (1, free_too) }
}

/// An entry, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// The connection's states.
    pub track: Track,
    /// How it came to be.
    pub admitted: Admitted,
    /// Packets so far, both ways.
    pub packets: u32,
    /// How many of them its socket has counted, or that it has none.
    pub counted: Option<u32>,
    /// When it was first seen, in units of 2³⁰ ns.
    pub began: u32,
}

/// What tells whether the connection of entry `index` is there.
#[inline(always)]
fn hot(bucket: &Shared<FlowBucket>, index: usize) -> &Shared<FlowHot> {
    field!(bucket.hot[index & (FLOW_ENTRIES - 1)])
}

/// The rest of entry `index`.
#[inline(always)]
fn cold(bucket: &Shared<FlowBucket>, index: usize) -> &Shared<FlowCold> {
    field!(bucket.cold[index & (FLOW_ENTRIES - 1)])
}

/// Puts a connection into entry `index` of a bucket.
#[inline(always)]
pub fn put(bucket: &Shared<FlowBucket>, index: usize, slot: &FlowSlot, entry: &FlowEntry, config: &Config) {
    let index = index & (FLOW_ENTRIES - 1);
    // The tag last: until then the entry is nobody's.
    let (hot, cold) = (field!(bucket.hot[index]), field!(bucket.cold[index]));
    field!(hot.flags).set(if entry.counted.is_none() { NO_SOCKET } else { 0 });
    store(bucket, index, &entry.track);
    field!(cold.began).set(entry.began);
    field!(cold.packets).set(entry.packets.wrapping_sub(entry.counted.unwrap_or(0)));
    field!(hot.admitted).set(entry.admitted as u8);
    field!(hot.generation).set(presence_filter::noted(config, Noted::Established));
    field!(hot.tag).set(slot.tag);
}

/// Frees entry `index`.
#[inline(always)]
pub fn free(bucket: &Shared<FlowBucket>, index: usize) {
    let hot = hot(bucket, index);
    field!(hot.tag).set(0);
}

/// Frees every entry with a connection's tag, those whose generation is gone as well: its number comes round again.
#[inline(always)]
pub fn forget(bucket: &Shared<FlowBucket>, slot: &FlowSlot) {
    for hot in field!(bucket.hot).each() {
        if field!(hot.tag).get() == slot.tag {
            field!(hot.tag).set(0);
        }
    }
}

/// The connection of entry `index` is established: the client's sequence numbers will be out of date, and a FIN that was
/// expected was forged.
#[inline(always)]
pub fn settle_established(bucket: &Shared<FlowBucket>, index: usize) {
    let hot = hot(bucket, index);
    let flags = field!(hot.flags);
    flags.set(flags.get() & !(TRACK_FIN_IN | TRACK_NEXT_IN));
}

/// The kernel has the connection of entry `index`.
#[inline(always)]
pub fn renew(bucket: &Shared<FlowBucket>, index: usize, config: &Config) {
    let hot = hot(bucket, index);
    field!(hot.generation).set(presence_filter::noted(config, Noted::Established));
}

/// The connection of entry `index` has lost its socket, which had counted so many segments. None: the count was missed, and
/// packets are counted from now on.
#[inline(always)]
pub fn lose_socket(bucket: &Shared<FlowBucket>, index: usize, segments: Option<u32>) {
    if has_no_socket(bucket, index) {
        return;
    }
    let (hot, cold) = (hot(bucket, index), cold(bucket, index));
    field!(hot.flags).set(field!(hot.flags).get() | NO_SOCKET);
    let packets = field!(cold.packets);
    packets.set(segments.map_or(0, |segments| packets.get().wrapping_add(segments)));
}

/// Whether the connection of entry `index` has lost its socket.
#[inline(always)]
pub fn has_no_socket(bucket: &Shared<FlowBucket>, index: usize) -> bool {
    let hot = hot(bucket, index);
    field!(hot.flags).get() & NO_SOCKET != 0
}

/// Whether the connection of entry `index` began before it was seen.
#[inline(always)]
pub fn is_learnt(bucket: &Shared<FlowBucket>, index: usize) -> bool {
    let hot = hot(bucket, index);
    field!(hot.admitted).get() == Admitted::Learnt as u8
}

/// The word in which a packet of entry `index` is to be counted; none: its socket counts it.
#[inline(always)]
pub fn counts(bucket: &Shared<FlowBucket>, index: usize) -> Option<&Shared<u32>> {
    let cold = cold(bucket, index);
    has_no_socket(bucket, index).then(|| field!(cold.packets))
}

/// The state in which the kernel may still hold a connection whose socket is gone: TIME_WAIT, or FIN_WAIT2 without a
/// process (`tcp_time_wait`, net/ipv4/tcp_minisocks.c). `wire` is the state that the packets led to, `from` the kernel's
/// last.
#[inline(always)]
pub fn goes_on(wire: State, from: u8) -> Option<State> {
    match (State::from_kernel(from)?, wire) {
        (State::FinWait2 | State::Closing, State::TimeWait | State::FinWait2 | State::Closing) => Some(wire),
        // The client's acknowledgement went by unseen.
        (State::FinWait2 | State::Closing, State::FinWait1) => Some(State::FinWait2),
        _ => None,
    }
}

/// Adds what entry `index` has to a line of a listing. `segments` are those that its socket has counted, if it has one.
#[inline(always)]
pub fn describe(bucket: &Shared<FlowBucket>, index: usize, segments: Option<u32>, line: &mut Listed) {
    let (hot, cold) = (hot(bucket, index).get(), cold(bucket, index).get());
    (line.wire_state, line.admitted, line.began) = (hot.state, hot.admitted, cold.began);
    line.packets = match segments {
        _ if hot.flags & NO_SOCKET != 0 => cold.packets,
        Some(segments) => cold.packets.wrapping_add(segments),
        // How it lost its socket was missed, and with it what that had counted.
        None => 0,
    };
}

/// The states that entry `index` holds.
#[inline(always)]
pub fn load(bucket: &Shared<FlowBucket>, index: usize) -> Track {
    let (hot, cold) = (hot(bucket, index), cold(bucket, index));
    Track {
        state: State::from_kernel(field!(hot.state).get()).unwrap_or(State::Close),
        flags: field!(hot.flags).get() & !NO_SOCKET,
        next_in: field!(cold.next_in).get(),
        fin_in: field!(cold.fin_in).get(),
        fin_out: field!(cold.fin_out).get(),
        since: field!(cold.since).get(),
    }
}

/// Writes the states back.
#[inline(always)]
pub fn store(bucket: &Shared<FlowBucket>, index: usize, track: &Track) {
    let (hot, cold) = (hot(bucket, index), cold(bucket, index));
    field!(hot.state).set(track.state as u8);
    field!(hot.flags).set(field!(hot.flags).get() & NO_SOCKET | track.flags);
    field!(cold.since).set(track.since);
    field!(cold.next_in).set(track.next_in);
    field!(cold.fin_in).set(track.fin_in);
    field!(cold.fin_out).set(track.fin_out);
}

/// Whether a segment with these flags changes no connection's state: no SYN, FIN or RST.
#[inline(always)]
pub const fn is_plain(flags: u8) -> bool {
    flags & (SYN | FIN | RST) == 0
}

/// Whether the connection of entry `index` is established and has no FIN under way.
#[inline(always)]
pub fn is_established(bucket: &Shared<FlowBucket>, index: usize) -> bool {
    let hot = hot(bucket, index);
    field!(hot.state).get() == State::Established as u8 && field!(hot.flags).get() & TRACK_FIN_IN == 0
}

/// Whether the kernel reports the end of the connection of entry `index`, see [`State::ends_heard`].
#[inline(always)]
pub fn ends_heard(bucket: &Shared<FlowBucket>, index: usize) -> bool {
    let hot = hot(bucket, index);
    State::from_kernel(field!(hot.state).get()).is_some_and(State::ends_heard)
}

/// Applies a segment to the connection of entry `index`.
#[inline(always)]
pub fn step(bucket: &Shared<FlowBucket>, index: usize, segment: &ObservedSegment, now: impl FnOnce() -> u32) {
    // Others of these are not seen, so their sequence numbers would soon be out of date.
    if is_established(bucket, index) && is_plain(segment.flags) {
        return;
    }
    let now = now();
    let mut track = load(bucket, index);
    track.step(segment, now);
    store(bucket, index, &track);
    if is_established(bucket, index) {
        settle_established(bucket, index);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tcp_state::TIME_WAIT_MS;

    const MASK: u32 = 1023;
    const NOW: u32 = 5;

    fn config() -> Config {
        Config { filter_newest: 7, filter_oldest: 6, ..Config::default() }
    }

    fn entry(began: u32) -> FlowEntry {
        let track = Track::known(State::Established, began.wrapping_mul(3));
        FlowEntry { track, admitted: Admitted::Cookie, packets: 3, counted: Some(2), began }
    }

    /// As the datapath does it.
    fn table() -> Vec<Shared<FlowBucket>> {
        (0..=MASK).map(|_| Shared::new(FlowBucket::default())).collect()
    }

    fn insert(table: &[Shared<FlowBucket>], hash: u64, entry: &FlowEntry, config: &Config) -> bool {
        let place = slot(hash, MASK);
        let [first, second] = place.buckets.map(|bucket| bucket as usize);
        let ((taken, free), (taken_too, free_too)) =
            (room(&table[first], config, NOW), room(&table[second], config, NOW));
        let (which, index) = enters([(taken, free), (taken_too, free_too)]);
        if index < FLOW_ENTRIES {
            put(&table[[first, second][which]], index, &place, entry, config);
        }
        index < FLOW_ENTRIES
    }

    fn get(table: &[Shared<FlowBucket>], hash: u64, config: &Config) -> Option<(u32, Track)> {
        let place = slot(hash, MASK);
        place.buckets.into_iter().find_map(|bucket| {
            let bucket = &table[bucket as usize];
            let index = find(bucket, &place, config);
            (index < FLOW_ENTRIES).then(|| (bucket.get().cold[index].began, load(bucket, index)))
        })
    }

    fn hash(number: u64) -> u64 {
        let mut hash = number.wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 29
    }

    #[test]
    fn as_many_connections_as_half_of_the_entries_all_find_room() {
        let table = table();
        let half = u64::from(MASK + 1) * FLOW_ENTRIES as u64 / 2;
        for number in 0..half {
            assert!(insert(&table, hash(number), &entry(number as u32), &config()), "{number} of {half}");
        }
        for number in 0..half {
            let expected = entry(number as u32);
            assert_eq!(get(&table, hash(number), &config()), Some((number as u32, expected.track)));
        }
        assert_eq!(get(&table, hash(half), &config()), None);
    }

    #[test]
    fn most_connections_are_in_their_first_bucket() {
        let table = table();
        let half = u64::from(MASK + 1) * FLOW_ENTRIES as u64 / 2;
        let all: Vec<u64> =
            (0..half).filter(|number| insert(&table, hash(*number), &entry(1), &config())).collect();
        let first = all.iter().filter(|number| {
            let place = slot(hash(**number), MASK);
            find(&table[place.buckets[0] as usize], &place, &config()) < FLOW_ENTRIES
        });
        assert!(first.count() * 10 > all.len() * 9);
    }

    #[test]
    fn a_full_table_keeps_whom_it_has() {
        let table = table();
        let all = u64::from(MASK + 1) * FLOW_ENTRIES as u64;
        let taken: Vec<u64> =
            (0..2 * all).filter(|number| insert(&table, hash(*number), &entry(1), &config())).collect();
        assert!(taken.len() as u64 > all * 9 / 10, "{}", taken.len());
        assert!(taken.iter().all(|number| get(&table, hash(*number), &config()).is_some()));
    }

    #[test]
    fn a_full_bucket_has_room_where_time_wait_is_over() {
        let bucket = &Shared::new(FlowBucket::default());
        for index in 0..FLOW_ENTRIES {
            let place = FlowSlot { buckets: [0, 0], tag: 10 + index as u32 };
            put(bucket, index, &place, &entry(1), &config());
        }
        assert_eq!(room(bucket, &config(), 1_000_000), (FLOW_ENTRIES, FLOW_ENTRIES));
        store(bucket, 2, &Track::known(State::TimeWait, 1_000));
        assert_eq!(room(bucket, &config(), 1_000 + TIME_WAIT_MS - 1), (FLOW_ENTRIES, FLOW_ENTRIES));
        assert_eq!(room(bucket, &config(), 1_000 + TIME_WAIT_MS), (FLOW_ENTRIES, 2));
        free(bucket, 0);
        assert_eq!(room(bucket, &config(), 1_000 + TIME_WAIT_MS), (FLOW_ENTRIES - 1, 0));
    }

    #[test]
    fn whose_generation_is_gone_is_gone() {
        let table = table();
        insert(&table, hash(1), &entry(1), &config());
        let later = Config { filter_newest: 8, filter_oldest: 7, ..Config::default() };
        assert!(get(&table, hash(1), &later).is_some());
        let later = Config { filter_newest: 8, filter_oldest: 8, ..Config::default() };
        assert_eq!(get(&table, hash(1), &later), None);
        let place = slot(hash(1), MASK);
        assert_eq!(room(&table[place.buckets[0] as usize], &later, NOW).0, 0);
    }

    #[test]
    fn what_is_forgotten_does_not_come_round_again() {
        let bucket = &Shared::new(FlowBucket::default());
        let place = FlowSlot { buckets: [0, 0], tag: 11 };
        put(bucket, 1, &place, &entry(1), &config());
        let later = Config { filter_newest: 9, filter_oldest: 9, ..Config::default() };
        assert_eq!(find(bucket, &place, &later), FLOW_ENTRIES);
        forget(bucket, &place);
        assert_eq!(find(bucket, &place, &config()), FLOW_ENTRIES);
    }

    /// What a listing says of an entry's packets.
    fn listed(bucket: &Shared<FlowBucket>, segments: Option<u32>) -> u32 {
        let mut line = Listed::default();
        describe(bucket, 0, segments, &mut line);
        line.packets
    }

    #[test]
    fn packets_are_the_socket_s_and_those_it_does_not_count() {
        let bucket = &Shared::new(FlowBucket::default());
        let place = FlowSlot { buckets: [0, 0], tag: 11 };
        // Three packets so far, of which the socket has counted two.
        put(bucket, 0, &place, &entry(1), &config());
        assert_eq!(listed(bucket, Some(2)), 3);
        assert!(counts(bucket, 0).is_none());
        assert_eq!(listed(bucket, Some(9)), 10);
        lose_socket(bucket, 0, Some(10));
        assert_eq!(listed(bucket, None), 11);
        let packets = counts(bucket, 0).expect("no socket counts");
        packets.set(packets.get() + 1);
        // The end of a socket is told once.
        lose_socket(bucket, 0, Some(10));
        store(bucket, 0, &Track::known(State::TimeWait, 0));
        assert_eq!(listed(bucket, None), 12);

        // Known for the first time when its socket had counted much already.
        let learnt = FlowEntry { admitted: Admitted::Learnt, packets: 0, counted: Some(7_000), ..entry(1) };
        put(bucket, 0, &place, &learnt, &config());
        assert_eq!(listed(bucket, Some(7_002)), 2);
        // How it ended was missed.
        assert_eq!(listed(bucket, None), 0);
        lose_socket(bucket, 0, None);
        assert_eq!(counts(bucket, 0).map(Shared::get), Some(0));
    }

    #[test]
    fn a_quiet_connection_learns_nothing_from_plain_segments() {
        use crate::{tcp_state::Direction, wire::tcp::ACK};
        let bucket = &Shared::new(FlowBucket::default());
        put(bucket, 0, &FlowSlot { buckets: [0, 0], tag: 11 }, &entry(1), &config());
        let before = bucket.get();
        let segment = |direction, flags, sequence, acknowledgement, data_len| ObservedSegment {
            direction,
            flags,
            sequence,
            acknowledgement,
            data_len,
        };
        for direction in [Direction::In, Direction::Out] {
            step(bucket, 0, &segment(direction, ACK, 100, 900, 10), || NOW);
        }
        assert_eq!(bucket.get(), before);
        // A FIN counts when the server acknowledges it, whatever went by in between.
        let forged = segment(Direction::In, FIN | ACK, 2_999_999_000, 900, 0);
        step(bucket, 0, &forged, || NOW);
        step(bucket, 0, &segment(Direction::Out, ACK, 900, 3_000_000_000, 0), || NOW);
        assert_eq!(load(bucket, 0).state, State::Established);
        assert_eq!(bucket.get().hot, before.hot);
        // The same, overtaken by what the client goes on to send.
        step(bucket, 0, &segment(Direction::In, FIN | ACK, 2_999_999_999, 900, 0), || NOW);
        step(bucket, 0, &segment(Direction::Out, ACK, 900, 2_999_999_000, 0), || NOW);
        step(bucket, 0, &segment(Direction::In, ACK, 2_999_999_000, 900, 1_448), || NOW);
        assert_eq!(load(bucket, 0).state, State::Established);
        assert!(is_established(bucket, 0));
        let fin = segment(Direction::In, FIN | ACK, 3_000_000_000, 900, 0);
        step(bucket, 0, &fin, || NOW);
        assert_eq!(load(bucket, 0).state, State::Established);
        assert!(!is_established(bucket, 0));
        step(bucket, 0, &segment(Direction::Out, ACK, 900, 3_000_000_000, 0), || NOW);
        assert!(!is_established(bucket, 0));
        step(bucket, 0, &segment(Direction::Out, ACK, 900, 3_000_000_001, 0), || NOW);
        assert_eq!(load(bucket, 0).state, State::CloseWait);
    }

    #[test]
    fn what_has_no_socket_goes_on_in_a_state_whose_end_is_not_heard() {
        for (wire, from) in State::ALL.into_iter().flat_map(|wire| State::ALL.map(|from| (wire, from))) {
            assert!(goes_on(wire, from as u8).is_none_or(|state| !state.ends_heard()), "{wire:?} {from:?}");
        }
        assert_eq!(goes_on(State::TimeWait, State::FinWait2 as u8), Some(State::TimeWait));
        assert_eq!(goes_on(State::FinWait1, State::FinWait2 as u8), Some(State::FinWait2));
        assert_eq!(goes_on(State::Established, State::FinWait2 as u8), None);
        assert_eq!(goes_on(State::TimeWait, State::LastAck as u8), None);
    }

    #[test]
    fn admissions_have_numbers_and_names() {
        for way in Admitted::ALL {
            assert_eq!(Admitted::from_abi(way as u8), Some(way));
        }
        assert_eq!(Admitted::from_abi(0), None);
    }

    proptest! {
        #[test]
        fn places_are_within_and_tags_never_empty(hash: u64, bits in 0u32..20) {
            let mask = (1 << bits) - 1;
            let place = slot(hash, mask);
            prop_assert!(place.buckets.iter().all(|bucket| *bucket <= mask));
            prop_assert!(place.tag != 0);
        }
    }
}
