//! Following connections in the flow table, see `defender_common::flow`.

use defender_common::{
    abi::{
        Config, FLOW_ENTRIES, FlowBucket, HalfOpenBucket, HalfOpenBuckets, HalfOpenEntry, Handoff, Listed,
        Tracked, in_place,
    },
    clock::age,
    field,
    flow::{self, Admitted, FlowEntry},
    half_open::{self, HalfOpenSlot, Occupant, WOULD_CHALLENGE},
    load::Time,
    presence_filter::Noted,
    shared::Shared,
    tcp_state::{Direction, ObservedSegment, State, Track},
    validated_cookies::{ESTABLISH_MS, Progress},
    wire::{
        address::{Address, Flow},
        tcp::{FIN, RST, Segment},
    },
};

use crate::{
    account, atomic, clock, config, load,
    maps::{FLOWS, in_place, shared},
    presence_filter, validated_cookies, validated_sources,
};

/// A wire state that has been as it is for so long is put right by the kernel's, in milliseconds: before, either may be
/// a step ahead of the other.
const SETTLED_MS: u32 = 1_000;

/// Whether the kernel has the connection that a segment claims to be of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has it: the flow table does, in a state whose end would have been heard.
    Certain,
    /// The presence filter notes it as established, and the segment changes nothing. If the flow table has it as well, the
    /// kernel does ([`holds`]).
    NotedEstablished,
    /// It may have it.
    Possible,
    /// It cannot have it: the segment is out of state.
    Impossible,
}

/// Follows a segment from a client. Not for SYNs.
#[inline(always)]
pub(crate) fn inbound<A: Address>(segment: &Segment<A>, hash: u64, config: &Config) -> Presence {
    // The filter lies in the caches. In a flood of random tuples the flow table does not.
    match presence_filter::noted(hash, config) {
        None => Presence::Impossible,
        Some(Noted::Established) if flow::is_plain(segment.flags) => Presence::NotedEstablished,
        Some(_) => match follow(segment, hash, Direction::In, config) {
            IN_TABLE | IS_ESTABLISHED => Presence::Certain,
            _ => Presence::Possible,
        },
    }
}

/// Whether the flow table has a connection, in a state that the kernel does not leave unheard.
#[inline(always)]
pub(crate) fn holds(hash: u64) -> bool {
    let at = flow_locate(hash);
    at != NOWHERE && State::from_kernel((at >> 8) as u8).is_some_and(State::ends_heard)
}

/// Follows a segment of `service` to a client.
#[inline(always)]
pub(crate) fn outbound<A: Address>(segment: &Segment<A>, service: u32, config: &Config) {
    let flow = segment.flow.reversed();
    let hash = flow.hash(&config.table_keys);
    if flow::is_plain(segment.flags) && presence_filter::noted(hash, config) != Some(Noted::Tracked) {
        return;
    }
    let speaks = segment.data_len() > 0 || segment.flags & FIN != 0;
    let news = match follow(segment, hash, Direction::Out, config) {
        NOT_IN_TABLE => speaks,
        // The entry may be that of the last connection of the same name; a FIN may be that one's, repeated.
        MAY_BE_OVER => speaks && segment.flags & FIN == 0,
        _ => false,
    };
    if news
        && established(&flow, config, service, EstablishedBy::ByPacket, clock::time())
        && segment.flags & FIN != 0
    {
        // It may be the end as well.
        follow(segment, hash, Direction::Out, config);
    }
}

/// What [`follow`] found: nothing.
const NOT_IN_TABLE: u64 = 0;
/// The connection, in a state whose end nobody hears of.
const MAY_BE_OVER: u64 = 1;
/// The connection, in a state that the kernel does not leave unheard.
const IN_TABLE: u64 = 2;
/// The same, and it is quiet.
const IS_ESTABLISHED: u64 = 3;

/// One of the four.
#[inline(always)]
fn follow<A: Address>(segment: &Segment<A>, hash: u64, direction: Direction, config: &Config) -> u64 {
    let at = flow_locate(hash);
    if at == NOWHERE {
        if segment.flags & RST != 0 {
            flow_reset_half_open(hash, segment.sequence as u64);
        }
        return NOT_IN_TABLE;
    }
    let numbers = (segment.sequence as u64) << 32 | segment.acknowledgement as u64;
    let about = segment.flags as u64 | (direction as u64) << 8 | (segment.data_len() as u64 & 0xffff) << 16;
    let found = flow_step(at, numbers, about);
    if found != IS_ESTABLISHED {
        presence_filter::note(hash, config, Noted::Tracked);
    }
    found
}

/// Where a connection is in the table: nowhere.
const NOWHERE: u64 = 0;

// Global functions: the verifier looks at each once, by itself, and each has room of its own on the stack.

/// Where a connection is: the number of its bucket in the upper half, then its state and, from 1 on, its entry.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_locate(hash: u64) -> u64 {
    let config = config::config();
    let slot = flow::slot(hash, config.flow_mask);
    for number in slot.buckets {
        let Some(bucket) = bucket(number) else { return NOWHERE };
        let index = flow::find(bucket, &slot, config);
        if index < FLOW_ENTRIES {
            let hot = field!(bucket.hot[index & (FLOW_ENTRIES - 1)]);
            let state = field!(hot.state).get();
            return (number as u64) << 32 | (state as u64) << 8 | (index as u64 + 1);
        }
    }
    NOWHERE
}

/// The bucket and the number of the entry of a connection that is there.
#[inline(always)]
fn entry(at: u64) -> Option<(&'static Shared<FlowBucket>, usize)> {
    if at == NOWHERE {
        return None;
    }
    let index = (at as usize - 1) & (FLOW_ENTRIES - 1);
    bucket((at >> 32) as u32).map(|bucket| (bucket, index))
}

/// The same of a connection that may be there.
#[inline(always)]
fn locate(hash: u64) -> Option<(&'static Shared<FlowBucket>, usize)> {
    entry(flow_locate(hash))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_step(at: u64, numbers: u64, about: u64) -> u64 {
    let Some((bucket, index)) = entry(at) else { return NOT_IN_TABLE };
    let segment = ObservedSegment {
        direction: if about & 0x100 == 0 { Direction::In } else { Direction::Out },
        flags: about as u8,
        sequence: (numbers >> 32) as u32,
        acknowledgement: numbers as u32,
        data_len: (about >> 16) as u32 & 0xffff,
    };
    count(bucket, index);
    flow::step(bucket, index, &segment, clock::now);
    if flow::is_established(bucket, index) {
        IS_ESTABLISHED
    } else if flow::ends_heard(bucket, index) {
        IN_TABLE
    } else {
        MAY_BE_OVER
    }
}

/// Counts a packet if no socket does; the other direction may do so at the same time.
#[inline(always)]
fn count(bucket: &Shared<FlowBucket>, index: usize) {
    if let Some(packets) = flow::counts(bucket, index) {
        atomic::increment(packets);
    }
}

#[inline(always)]
fn bucket(number: u32) -> Option<&'static Shared<FlowBucket>> {
    // SAFETY: a map's value, to which nobody has another kind of reference.
    FLOWS.get_ptr_mut(number).map(|bucket| unsafe { Shared::at(bucket) })
}

/// The bucket of a half-open connection.
#[inline(always)]
fn half_open(slot: &HalfOpenSlot) -> &'static Shared<HalfOpenBucket> {
    let buckets: *mut HalfOpenBuckets = in_place!(in_place::HALF_OPEN);
    shared(buckets, slot.bucket)
}

/// A SYN to a service has passed; `would` says that mode `auto` would have challenged it.
#[inline(always)]
pub(crate) fn opens<A: Address>(segment: &Segment<A>, hash: u64, service: u32, would: bool) {
    let about = segment.sequence as u64 | (service as u64) << 32 | (would as u64) << 63;
    flow_open(hash, about);
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_open(hash: u64, about: u64) -> u64 {
    let slot = half_open::slot(hash);
    let bucket = half_open(&slot);
    let began = clock::epoch();
    let (index, occupant) = half_open::find(bucket, &slot, began);
    let (next_in, service) = ((about as u32).wrapping_add(1), (about >> 32) as u16);
    if occupant == Occupant::Own && half_open::repeats(&half_open::get(bucket, index), next_in, began) {
        half_open::count(bucket, index);
        return 0;
    }
    // Another attempt of the same connection counts as well: the kernel may hold both in turn for longer than one.
    let flags = if about >> 63 != 0 { WOULD_CHALLENGE } else { 0 };
    half_open::put(bucket, index, &slot, HalfOpenEntry { next_in, began, service, flags, ..NOBODY });
    account::tracked(Tracked::Opened);
    if occupant == Occupant::Taken {
        account::tracked(Tracked::PushedOut);
    }
    0
}

const NOBODY: HalfOpenEntry =
    HalfOpenEntry { tag: 0, next_in: 0, began: 0, service: 0, packets: 0, flags: 0 };

/// A SYN is challenged: the socket table has nothing of its connection. Should there be an entry, then its end went by
/// unheard, and it must not speak for the new connection: the kernel's tracepoint may miss an event where one interrupts
/// another, and sockets in TIME_WAIT have none.
#[inline(always)]
pub(crate) fn forget_stale(hash: u64, config: &Config) {
    if presence_filter::noted(hash, config).is_some() {
        flow_forget(hash);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_forget(hash: u64) -> u64 {
    let slot = flow::slot(hash, config::config().flow_mask);
    for number in slot.buckets {
        if let Some(bucket) = bucket(number) {
            flow::forget(bucket, &slot);
        }
    }
    0
}

/// This host has answered a SYN to `service`.
#[inline(always)]
pub(crate) fn answers<A: Address>(segment: &Segment<A>, service: u32, config: &Config) {
    if flow_answer(segment.flow.reversed().hash(&config.table_keys)) == FIRST_ANSWER {
        load::answered(service);
    }
}

/// The SYN that is answered is the last packet of its connection that was seen.
const FIRST_ANSWER: u64 = 1;

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_answer(hash: u64) -> u64 {
    let slot = half_open::slot(hash);
    let bucket = half_open(&slot);
    let (index, occupant) = half_open::find(bucket, &slot, clock::epoch());
    if occupant != Occupant::Own {
        return 0;
    }
    let is_first = half_open::get(bucket, index).packets == 0;
    half_open::count(bucket, index);
    if is_first { FIRST_ANSWER } else { 0 }
}

/// A RST of the client's may end a half-open connection, of which the kernel tells nobody. Should the SYN come again it is
/// another attempt; what the service has to bear is not less, because the kernel may ignore the RST.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_reset_half_open(hash: u64, sequence: u64) -> u64 {
    let slot = half_open::slot(hash);
    let bucket = half_open(&slot);
    let (index, occupant) = half_open::find(bucket, &slot, clock::epoch());
    if occupant == Occupant::Own && half_open::get(bucket, index).next_in == sequence as u32 {
        half_open::free(bucket, index);
    }
    0
}

/// Who says that a handshake is complete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EstablishedBy {
    /// The tracepoint said so; the socket has counted so many segments.
    ByKernel(Option<u32>),
    /// The kernel speaks on the connection. The tracepoint is not run where it would interrupt itself, so some are missed.
    ByPacket,
}

impl EstablishedBy {
    /// How many segments the socket has counted of those that are known.
    #[inline(always)]
    fn counted(self) -> Option<u32> {
        match self {
            Self::ByKernel(segments) => segments,
            // The SYN and the acknowledgement (`tcp_create_openreq_child`, net/ipv4/tcp_minisocks.c); others followed.
            Self::ByPacket => Some(2),
        }
    }
}

/// The kernel has completed a handshake, now or, if a packet tells, perhaps: says whether it was news.
#[inline(always)]
pub(crate) fn established<A: Address>(
    flow: &Flow<A>,
    config: &Config,
    service: u32,
    by: EstablishedBy,
    Time { ms: now, second: began }: Time,
) -> bool {
    let hash = flow.hash(&config.table_keys);
    let handed_over = validated_cookies::take(hash, Progress::Assigned, now, ESTABLISH_MS);
    let track = Track::known(State::Established, now);
    let mut entry =
        FlowEntry { track, admitted: Admitted::Handshake, packets: 1, counted: by.counted(), began };
    let (opened, would) = take_half_open(hash, &mut entry);
    if by == EstablishedBy::ByPacket && !handed_over && !opened {
        return false;
    }
    if handed_over {
        account::handoff(Handoff::Established, service);
        load::load_proved(service as u64, began as u64);
        // A cookie proves the SYN, its answer and the acknowledgement.
        entry = FlowEntry { admitted: Admitted::Cookie, packets: 3, began, ..entry };
    }
    account::established(service, would);
    account::tracked(Tracked::Established);
    validated_sources::note(flow.source, config, began);
    insert(hash, &entry, config, now);
    presence_filter::note(hash, config, Noted::Established);
    true
}

/// Takes a connection out of the table of half-open ones, into `entry`, established. Says whether it was there, and whether
/// its SYN would have been challenged.
#[inline(always)]
fn take_half_open(hash: u64, entry: &mut FlowEntry) -> (bool, bool) {
    let slot = half_open::slot(hash);
    let bucket = half_open(&slot);
    let (index, occupant) = half_open::find(bucket, &slot, entry.began);
    if occupant != Occupant::Own {
        return (false, false);
    }
    let opened = half_open::get(bucket, index);
    half_open::free(bucket, index);
    entry.packets = opened.packets as u32 + 1;
    entry.began = opened.began;
    (true, opened.flags & WOULD_CHALLENGE != 0)
}

#[inline(always)]
fn insert(hash: u64, entry: &FlowEntry, config: &Config, now: u32) {
    // The last connection of the same name.
    flow_forget(hash);
    let slot = flow::slot(hash, config.flow_mask);
    let [first, second] = slot.buckets;
    let (which, index) = flow::enters([room(first, now), room(second, now)]);
    if index >= FLOW_ENTRIES {
        account::tracked(Tracked::NoRoom);
    } else if let Some(bucket) = bucket(if which == 0 { first } else { second }) {
        flow::put(bucket, index, &slot, entry, config);
    }
}

/// See [`flow::room`].
#[inline(always)]
fn room(number: u32, now: u32) -> (usize, usize) {
    let room = flow_room(number as u64, now as u64);
    ((room >> 32) as usize, room as u32 as usize)
}

/// The two numbers, the first in the upper half.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_room(number: u64, now: u64) -> u64 {
    let (taken, free) = match bucket(number as u32) {
        Some(bucket) => flow::room(bucket, config::config(), now as u32),
        None => (FLOW_ENTRIES, FLOW_ENTRIES),
    };
    (taken as u64) << 32 | free as u64
}

/// A socket that was in state `from` is no more; it had counted so many segments.
#[inline(always)]
pub(crate) fn closed<A: Address>(flow: &Flow<A>, config: &Config, from: u8, segments: Option<u32>) {
    let hash = flow.hash(&config.table_keys);
    let Some((bucket, index)) = locate(hash) else { return };
    if !flow::is_learnt(bucket, index) {
        account::tracked(Tracked::Ended);
    }
    flow::lose_socket(bucket, index, segments);
    let track = flow::load(bucket, index);
    let Some(state) = flow::goes_on(track.state, from) else {
        flow_forget(hash);
        return;
    };
    flow::store(bucket, index, &Track { state, ..track });
    presence_filter::note(hash, config, Noted::Tracked);
}

/// The kernel has taken the client's FIN. It may have passed before its connection was known: with the ACK of the
/// handshake, or in its place.
#[inline(always)]
pub(crate) fn client_ended<A: Address>(flow: &Flow<A>, config: &Config) {
    let hash = flow.hash(&config.table_keys);
    let Some((bucket, index)) = locate(hash) else { return };
    let track = flow::load(bucket, index);
    if track.state == State::Established {
        let since = clock::time_for_tracing().ms;
        flow::store(bucket, index, &Track { state: State::CloseWait, since, ..track });
        presence_filter::note(hash, config, Noted::Tracked);
    }
}

/// The kernel holds a connection in this state; its socket, if it has one, has counted so many segments.
#[inline(always)]
pub(crate) fn confirm<A: Address>(
    flow: &Flow<A>,
    config: &Config,
    service: u32,
    state: State,
    segments: Option<u32>,
) {
    if state == State::SynRecv {
        learn_half_open(flow, config, service);
        return;
    }
    let Time { ms: now, second: began } = clock::time_for_tracing();
    let hash = flow.hash(&config.table_keys);
    // An entry without a socket, where there is one, is that of the last connection of the same name.
    let entry =
        locate(hash).filter(|(bucket, index)| segments.is_none() || !flow::has_no_socket(bucket, *index));
    let Some((bucket, index)) = entry else {
        let (track, admitted) = (Track::known(state, now), Admitted::Learnt);
        insert(hash, &FlowEntry { track, admitted, packets: 0, counted: segments, began }, config, now);
        return;
    };
    flow::renew(bucket, index, config);
    if segments.is_none() {
        flow::lose_socket(bucket, index, None);
    }
    let track = flow::load(bucket, index);
    if track.state != state && age(track.since, now) > SETTLED_MS {
        flow::store(bucket, index, &Track::known(state, now));
    } else if track.state == State::Established && state == State::Established {
        flow::settle_established(bucket, index);
    }
}

/// The kernel holds a half-open connection. It may be from before, or from when its service was not watched.
#[inline(always)]
fn learn_half_open<A: Address>(flow: &Flow<A>, config: &Config, service: u32) {
    let slot = half_open::slot(flow.hash(&config.table_keys));
    let bucket = half_open(&slot);
    let began = clock::time_for_tracing().second;
    let (index, occupant) = half_open::find(bucket, &slot, began);
    if occupant != Occupant::Own {
        half_open::put(bucket, index, &slot, HalfOpenEntry { began, service: service as u16, ..NOBODY });
    }
}

/// Adds what is known of a connection to its line; its socket, if it has one, has counted so many segments.
#[inline(always)]
pub(crate) fn describe<A: Address>(
    flow: &Flow<A>,
    config: &Config,
    segments: Option<u32>,
    line: &mut Listed,
) {
    let hash = flow.hash(&config.table_keys);
    if line.state == State::SynRecv as u8 {
        let slot = half_open::slot(hash);
        let bucket = half_open(&slot);
        let (index, occupant) = half_open::find(bucket, &slot, clock::time_for_tracing().second);
        if occupant == Occupant::Own {
            half_open::describe(&half_open::get(bucket, index), line);
        }
    } else if let Some((bucket, index)) = locate(hash) {
        flow::describe(bucket, index, segments, line);
    }
}
