//! The flow table, see `defender_common::flow`.

use defender_common::{
    abi::{Config, FLOW_ENTRIES, FlowBucket, HalfOpenBucket, HalfOpenEntry, Handoff, Listed, Tracked},
    clock::age,
    flow::{self, Admitted, Entry, Place},
    half_open::{self, Slot, WOULD_CHALLENGE},
    load::Time,
    recent::{ESTABLISH_MS, What},
    tcp_state::{Direction, Seen, State, Track},
    wire::{
        address::{Address, Flow},
        tcp::{FIN, RST, Segment},
    },
};

use crate::{
    account, atomic, clock, config, filter, known, load,
    maps::{FLOWS, HALF_OPEN},
    recent,
};

/// A wire state that has been as it is for so long is put right by the kernel's, in milliseconds: before, either may be
/// a step ahead of the other.
const SETTLED_MS: u32 = 1_000;

/// What is known of the connection that a segment claims to be of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The kernel is sure to have it.
    Surely,
    /// It may have it.
    Perhaps,
    /// It cannot have it: the segment is a stray.
    No,
}

/// Follows a segment from a client. Not for SYNs.
#[inline(always)]
pub(crate) fn inbound<A: Address>(segment: &Segment<A>, hash: u64, config: &Config) -> Known {
    // The filter lies in the caches. In a flood of random tuples the flow table does not.
    if !filter::may_hold(hash, config) {
        return Known::No;
    }
    match follow(segment, hash, Direction::In) {
        IN_TABLE => Known::Surely,
        _ => Known::Perhaps,
    }
}

/// Follows a segment of `service` to a client.
#[inline(always)]
pub(crate) fn outbound<A: Address>(segment: &Segment<A>, service: u32, config: &Config) {
    let flow = segment.flow.reversed();
    let speaks = segment.data_len() > 0 || segment.flags & FIN != 0;
    let hash = flow.mix(&config.table_keys);
    if follow(segment, hash, Direction::Out) == NOT_IN_TABLE
        && speaks
        && established(&flow, config, service, Told::ByPacket, clock::time())
    {
        // It may be the end as well.
        follow(segment, hash, Direction::Out);
    }
}

#[inline(always)]
fn follow<A: Address>(segment: &Segment<A>, hash: u64, direction: Direction) -> u64 {
    let numbers = (segment.sequence as u64) << 32 | segment.acknowledgement as u64;
    let about = segment.flags as u64 | (direction as u64) << 8 | (segment.data_len() as u64 & 0xffff) << 16;
    flow_follow(hash, numbers, about)
}

// Global functions: the verifier looks at each once, by itself.

/// What [`flow_follow`] found: nothing.
const NOT_IN_TABLE: u64 = 0;
/// The connection, in a state that the kernel does not leave unheard.
const IN_TABLE: u64 = 1;
/// The connection, in a state whose end nobody hears of.
const MAY_BE_OVER: u64 = 2;

/// One of the three.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_follow(hash: u64, numbers: u64, about: u64) -> u64 {
    let Some(config) = config::config() else { return NOT_IN_TABLE };
    let place = flow::place(hash, config.flow_mask);
    let seen = Seen {
        direction: if about & 0x100 == 0 { Direction::In } else { Direction::Out },
        flags: about as u8,
        sequence: (numbers >> 32) as u32,
        acknowledgement: numbers as u32,
        data_len: (about >> 16) as u32 & 0xffff,
    };
    if let Some((bucket, index)) = locate(&place, config) {
        return if step(bucket, index, &seen).ends_heard() { IN_TABLE } else { MAY_BE_OVER };
    }
    if seen.flags & RST != 0 {
        reset_half_open(hash, &seen);
    }
    NOT_IN_TABLE
}

/// Returns the state it leads to.
#[inline(always)]
fn step(bucket: &mut FlowBucket, index: usize, seen: &Seen) -> State {
    count(bucket, index);
    if flow::moves_on(bucket, index, seen) {
        return State::Established;
    }
    let mut track = flow::load(bucket, index);
    track.step(seen, clock::now());
    flow::store(bucket, index, &track);
    track.state
}

/// Counts a packet; the other direction may do so at the same time.
#[inline(always)]
fn count(bucket: &mut FlowBucket, index: usize) {
    // SAFETY: an aligned word of a map value; once the entry has a tag, only this writes it.
    unsafe { atomic::increment(&raw mut bucket.hot[index & (FLOW_ENTRIES - 1)].packets) };
}

/// The bucket and the number of a connection's entry.
#[inline(always)]
fn locate(place: &Place, config: &Config) -> Option<(&'static mut FlowBucket, usize)> {
    for number in place.buckets {
        let bucket = bucket(number)?;
        let index = flow::find(bucket, place, config);
        if index < FLOW_ENTRIES {
            return Some((bucket, index));
        }
    }
    None
}

#[inline(always)]
fn bucket(number: u32) -> Option<&'static mut FlowBucket> {
    // SAFETY: a map value of integers; what CPUs write at the same time costs an entry at worst.
    FLOWS.get_ptr_mut(number).map(|bucket| unsafe { &mut *bucket })
}

/// The bucket of a half-open connection.
#[inline(always)]
fn half_open(place: &half_open::Place) -> Option<&'static mut HalfOpenBucket> {
    // SAFETY: as above.
    HALF_OPEN.get_ptr_mut(place.bucket).map(|bucket| unsafe { &mut *bucket })
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
    let place = half_open::place(hash);
    let Some(bucket) = half_open(&place) else { return 0 };
    let began = clock::epoch();
    let (index, slot) = half_open::slot(bucket, &place, began);
    let (next_in, service) = ((about as u32).wrapping_add(1), (about >> 32) as u16);
    if slot == Slot::Own && half_open::repeats(&half_open::get(bucket, index), next_in, began) {
        half_open::count(bucket, index);
        return 0;
    }
    // Another attempt of the same connection counts as well: the kernel may hold both in turn for longer than one.
    let flags = if about >> 63 != 0 { WOULD_CHALLENGE } else { 0 };
    half_open::put(bucket, index, &place, HalfOpenEntry { next_in, began, service, flags, ..NOBODY });
    load::load_opened(service as u64, began as u64);
    account::tracked(Tracked::Opened);
    if slot == Slot::Taken {
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
pub(crate) fn begins_anew(hash: u64, config: &Config) {
    if filter::may_hold(hash, config) {
        flow_forget(hash);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_forget(hash: u64) -> u64 {
    let Some(config) = config::config() else { return 0 };
    forget(&flow::place(hash, config.flow_mask));
    0
}

#[inline(always)]
fn forget(place: &Place) {
    for number in place.buckets {
        if let Some(bucket) = bucket(number) {
            flow::forget(bucket, place);
        }
    }
}

/// This host has answered a SYN.
#[inline(always)]
pub(crate) fn answers<A: Address>(segment: &Segment<A>, config: &Config) {
    flow_answer(segment.flow.reversed().mix(&config.table_keys));
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_answer(hash: u64) -> u64 {
    let place = half_open::place(hash);
    let Some(bucket) = half_open(&place) else { return 0 };
    let (index, slot) = half_open::slot(bucket, &place, clock::epoch());
    if slot == Slot::Own {
        half_open::count(bucket, index);
    }
    0
}

/// A RST of the client's may end a half-open connection, of which the kernel tells nobody. Should the SYN come again it is
/// another attempt; what the service has to bear is not less, because the kernel may ignore the RST.
#[inline(always)]
fn reset_half_open(hash: u64, seen: &Seen) {
    let place = half_open::place(hash);
    let Some(bucket) = half_open(&place) else { return };
    let (index, slot) = half_open::slot(bucket, &place, clock::epoch());
    if slot == Slot::Own && half_open::get(bucket, index).next_in == seen.sequence {
        half_open::free(bucket, index);
    }
}

/// How it is known that a handshake is complete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The tracepoint said so.
    ByKernel,
    /// The kernel speaks on the connection. The tracepoint is not run where it would interrupt itself, so some are missed.
    ByPacket,
}

/// The kernel has completed a handshake, now or, if a packet tells, perhaps: says whether it was news.
#[inline(always)]
pub(crate) fn established<A: Address>(
    flow: &Flow<A>,
    config: &Config,
    service: u32,
    told: Told,
    Time { ms: now, second: began }: Time,
) -> bool {
    let hash = flow.mix(&config.table_keys);
    let place = flow::place(hash, config.flow_mask);
    let handed_over = recent::take(flow, config, What::Assigned, now, ESTABLISH_MS);
    let track = Track::known(State::Established, now);
    let mut entry = Entry { track, admitted: Admitted::Handshake, packets: 1, began };
    let (opened, would) = take_half_open(hash, now, &mut entry);
    if told == Told::ByPacket && !handed_over && !opened {
        return false;
    }
    if handed_over {
        account::handoff(Handoff::Established, 0);
        load::load_proved(service as u64, began as u64);
        // A cookie proves the SYN, its answer and the acknowledgement.
        entry = Entry { track, admitted: Admitted::Cookie, packets: 3, began };
    }
    account::established(service, would);
    account::tracked(Tracked::Established);
    known::note(flow.source, config, began);
    insert(&place, &entry, config, now);
    true
}

/// Takes a connection out of the table of half-open ones, into `entry`, established. Says whether it was there, and whether
/// its SYN would have been challenged.
#[inline(always)]
fn take_half_open(hash: u64, now: u32, entry: &mut Entry) -> (bool, bool) {
    let place = half_open::place(hash);
    let Some(bucket) = half_open(&place) else { return (false, false) };
    let (index, slot) = half_open::slot(bucket, &place, entry.began);
    if slot != Slot::Own {
        return (false, false);
    }
    let opened = half_open::get(bucket, index);
    half_open::free(bucket, index);
    load::load_closed(opened.service as u64, opened.began as u64, entry.began as u64);
    entry.track = Track::established(opened.next_in, now);
    entry.packets = opened.packets as u32 + 1;
    entry.began = opened.began;
    (true, opened.flags & WOULD_CHALLENGE != 0)
}

#[inline(always)]
fn insert(place: &Place, entry: &Entry, config: &Config, now: u32) {
    // The last connection of the same name.
    forget(place);
    let [first, second] = place.buckets;
    let (Some(first), Some(second)) = (bucket(first), bucket(second)) else { return };
    let ((taken, free), (taken_too, free_too)) =
        (flow::room(first, config, now), flow::room(second, config, now));
    let (bucket, index) = if taken <= taken_too { (first, free) } else { (second, free_too) };
    if index < FLOW_ENTRIES {
        flow::put(bucket, index, place, entry, config);
    } else {
        account::tracked(Tracked::NoRoom);
    }
}

/// A socket that was in state `from` is no more.
#[inline(always)]
pub(crate) fn closed<A: Address>(flow: &Flow<A>, config: &Config, from: u8) {
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    let Some((bucket, index)) = locate(&place, config) else { return };
    account::tracked(Tracked::Ended);
    if !flow::goes_on(flow::load(bucket, index).state, from) {
        forget(&place);
    }
}

/// The kernel has taken the client's FIN. It may have passed before its connection was known: with the ACK of the
/// handshake, or in its place.
#[inline(always)]
pub(crate) fn client_ended<A: Address>(flow: &Flow<A>, config: &Config) {
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    let Some((bucket, index)) = locate(&place, config) else { return };
    let track = flow::load(bucket, index);
    if track.state == State::Established {
        let since = clock::time_for_tracing().ms;
        flow::store(bucket, index, &Track { state: State::CloseWait, since, ..track });
    }
}

/// The kernel holds a connection in this state.
#[inline(always)]
pub(crate) fn confirm<A: Address>(flow: &Flow<A>, config: &Config, service: u32, state: State) {
    if state == State::SynRecv {
        learn_half_open(flow, config, service);
        return;
    }
    let Time { ms: now, second: began } = clock::time_for_tracing();
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    let Some((bucket, index)) = locate(&place, config) else {
        let track = Track::known(state, now);
        insert(&place, &Entry { track, admitted: Admitted::Learnt, packets: 0, began }, config, now);
        return;
    };
    flow::renew(bucket, index, config);
    let track = flow::load(bucket, index);
    if track.state != state && age(track.since, now) > SETTLED_MS {
        flow::store(bucket, index, &Track::known(state, now));
    }
}

/// The kernel holds a half-open connection. It may be from before, or from when its service was not watched.
#[inline(always)]
fn learn_half_open<A: Address>(flow: &Flow<A>, config: &Config, service: u32) {
    let place = half_open::place(flow.mix(&config.table_keys));
    let Some(bucket) = half_open(&place) else { return };
    let time = clock::time_for_tracing();
    let began = time.second;
    let (index, slot) = half_open::slot(bucket, &place, began);
    if slot != Slot::Own {
        half_open::put(bucket, index, &place, HalfOpenEntry { began, service: service as u16, ..NOBODY });
        load::learnt(service, time);
    }
}

/// Adds what is known of a connection to its line.
#[inline(always)]
pub(crate) fn describe<A: Address>(flow: &Flow<A>, config: &Config, line: &mut Listed) {
    let hash = flow.mix(&config.table_keys);
    let place = flow::place(hash, config.flow_mask);
    if line.state == State::SynRecv as u8 {
        let place = half_open::place(hash);
        let Some(bucket) = half_open(&place) else { return };
        let (index, slot) = half_open::slot(bucket, &place, clock::time_for_tracing().second);
        if slot == Slot::Own {
            half_open::describe(&half_open::get(bucket, index), line);
        }
    } else if let Some((bucket, index)) = locate(&place, config) {
        flow::describe(bucket, index, line);
    }
}
