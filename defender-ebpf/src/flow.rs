//! The flow table, see `defender_common::flow`.

use defender_common::{
    abi::{Config, FLOW_ENTRIES, FlowBucket, Handoff, Listed, Tracked},
    clock::age,
    flow::{self, Admitted, Entry, Place, Slot},
    recent::{ESTABLISH_MS, What},
    tcp_state::{Direction, Seen, State, Track},
    wire::{
        address::{Address, Flow},
        tcp::{FIN, RST, Segment},
    },
};

use crate::{
    account, atomic, clock, config, filter,
    maps::{FLOWS, HALF_OPEN},
    recent,
};

/// A wire state that has been as it is for so long is put right by the kernel's, in milliseconds: before, either may be
/// a step ahead of the other.
const SETTLED_MS: u32 = 1_000;

/// Follows a segment from a client. Says whether the kernel is sure to have its connection. Not for SYNs.
#[inline(always)]
pub(crate) fn inbound<A: Address>(segment: &Segment<A>, config: &Config) -> bool {
    // The filter lies in the caches. In a flood of random tuples the flow table does not.
    filter::may_hold(&segment.flow, config) && follow(segment, &segment.flow, Direction::In, config)
}

/// Follows a segment of `service` to a client.
#[inline(always)]
pub(crate) fn outbound<A: Address>(segment: &Segment<A>, service: u32, config: &Config) {
    let flow = segment.flow.reversed();
    let speaks = segment.data_len() > 0 || segment.flags & FIN != 0;
    if !follow(segment, &flow, Direction::Out, config) && speaks {
        let time = (clock::now(), clock::epoch());
        if established(&flow, config, service, Told::ByPacket, time) {
            // It may be the end as well.
            follow(segment, &flow, Direction::Out, config);
        }
    }
}

#[inline(always)]
fn follow<A: Address>(segment: &Segment<A>, flow: &Flow<A>, direction: Direction, config: &Config) -> bool {
    let numbers = (segment.sequence as u64) << 32 | segment.acknowledgement as u64;
    let about = segment.flags as u64 | (direction as u64) << 8 | (segment.data_len() as u64 & 0xffff) << 16;
    flow_follow(flow.mix(&config.table_keys), numbers, about) != 0
}

// Global functions: the verifier looks at each once, by itself.

/// 1 if the connection is in the table, in a state that the kernel does not leave unheard.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_follow(hash: u64, numbers: u64, about: u64) -> u64 {
    let Some(config) = config::config() else { return 0 };
    let place = flow::place(hash, config.flow_mask);
    let seen = Seen {
        direction: if about & 0x100 == 0 { Direction::In } else { Direction::Out },
        flags: about as u8,
        sequence: (numbers >> 32) as u32,
        acknowledgement: numbers as u32,
        data_len: (about >> 16) as u32 & 0xffff,
    };
    if let Some((bucket, index)) = locate(&place, config) {
        return step(bucket, index, &seen).ends_heard() as u64;
    }
    if seen.flags & RST != 0 {
        reset_half_open(&place, &seen);
    }
    0
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

#[inline(always)]
fn half_open(place: &Place) -> Option<&'static mut FlowBucket> {
    // SAFETY: as above.
    HALF_OPEN.get_ptr_mut(place.half_open).map(|bucket| unsafe { &mut *bucket })
}

/// A SYN has passed.
#[inline(always)]
pub(crate) fn opens<A: Address>(segment: &Segment<A>, config: &Config) {
    flow_open(segment.flow.mix(&config.table_keys), segment.sequence as u64);
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_open(hash: u64, sequence: u64) -> u64 {
    let Some(config) = config::config() else { return 0 };
    let place = flow::place(hash, config.flow_mask);
    let Some(bucket) = half_open(&place) else { return 0 };
    let now = clock::now();
    let (index, slot) = flow::half_open_slot(bucket, &place, now);
    let sequence = sequence as u32;
    // Another sequence number: another attempt, after one that the kernel did not take.
    if slot == Slot::Own && flow::load(bucket, index).next_in == sequence.wrapping_add(1) {
        count(bucket, index);
        return 0;
    }
    let syn = Seen { direction: Direction::In, flags: 0, sequence, acknowledgement: 0, data_len: 0 };
    let track = Track::opening(&syn, now);
    let entry = Entry { track, admitted: Admitted::Handshake, packets: 1, began: clock::epoch() };
    flow::put(bucket, index, &place, &entry, config);
    account::tracked(Tracked::Opened);
    if slot == Slot::Taken {
        account::tracked(Tracked::PushedOut);
    }
    0
}

/// A SYN is challenged: the socket table has nothing of its connection. Should there be an entry, then its end went by
/// unheard, and it must not speak for the new connection: the kernel's tracepoint may miss an event where one interrupts
/// another, and sockets in TIME_WAIT have none.
#[inline(always)]
pub(crate) fn begins_anew<A: Address>(segment: &Segment<A>, config: &Config) {
    if filter::may_hold(&segment.flow, config) {
        flow_forget(segment.flow.mix(&config.table_keys));
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
    let Some(config) = config::config() else { return 0 };
    let place = flow::place(hash, config.flow_mask);
    let Some(bucket) = half_open(&place) else { return 0 };
    let (index, slot) = flow::half_open_slot(bucket, &place, 0);
    if slot == Slot::Own {
        count(bucket, index);
    }
    0
}

/// A RST of the client's ends a half-open connection, of which the kernel tells nobody.
#[inline(always)]
fn reset_half_open(place: &Place, seen: &Seen) {
    let Some(bucket) = half_open(place) else { return };
    let (index, slot) = flow::half_open_slot(bucket, place, 0);
    if slot == Slot::Own {
        let mut track = flow::load(bucket, index);
        track.step(seen, clock::now());
        if track.state == State::Close {
            flow::free(bucket, index);
        }
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

/// The kernel has completed a handshake, now or, if a packet tells, perhaps: says whether it was news. The time is in
/// milliseconds and in units of ages.
#[inline(always)]
pub(crate) fn established<A: Address>(
    flow: &Flow<A>,
    config: &Config,
    service: u32,
    told: Told,
    (now, began): (u32, u32),
) -> bool {
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    let handed_over = recent::take(flow, config, What::Assigned, now, ESTABLISH_MS);
    let track = Track::known(State::Established, now);
    let mut entry = Entry { track, admitted: Admitted::Handshake, packets: 1, began };
    let opened = take_half_open(&place, now, &mut entry);
    if told == Told::ByPacket && !handed_over && !opened {
        return false;
    }
    if handed_over {
        account::handoff(Handoff::Established, 0);
        // A cookie proves the SYN, its answer and the acknowledgement.
        entry = Entry { track, admitted: Admitted::Cookie, packets: 3, began };
    }
    account::established(service);
    account::tracked(Tracked::Established);
    insert(&place, &entry, config, now);
    true
}

/// Takes a connection out of the table of half-open ones, into `entry`, established. False if it is not there.
#[inline(always)]
fn take_half_open(place: &Place, now: u32, entry: &mut Entry) -> bool {
    let Some(bucket) = half_open(place) else { return false };
    let (index, slot) = flow::half_open_slot(bucket, place, now);
    if slot != Slot::Own {
        return false;
    }
    let opened = flow::load(bucket, index);
    flow::free(bucket, index);
    if opened.is_due(now) {
        return false;
    }
    let index = index & (FLOW_ENTRIES - 1);
    entry.track = Track::established(opened.next_in, now);
    entry.packets = bucket.hot[index].packets + 1;
    entry.began = bucket.cold[index].began;
    true
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
        let since = clock::now_for_tracing();
        flow::store(bucket, index, &Track { state: State::CloseWait, since, ..track });
    }
}

/// The kernel holds a connection in this state.
#[inline(always)]
pub(crate) fn confirm<A: Address>(flow: &Flow<A>, config: &Config, state: State) {
    if state == State::SynRecv {
        return;
    }
    let now = clock::now_for_tracing();
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    let Some((bucket, index)) = locate(&place, config) else {
        let track = Track::known(state, now);
        let began = clock::epoch_for_tracing();
        insert(&place, &Entry { track, admitted: Admitted::Learnt, packets: 0, began }, config, now);
        return;
    };
    flow::renew(bucket, index, config);
    let track = flow::load(bucket, index);
    if track.state != state && age(track.since, now) > SETTLED_MS {
        flow::store(bucket, index, &Track::known(state, now));
    }
}

/// Adds what is known of a connection to its line.
#[inline(always)]
pub(crate) fn describe<A: Address>(flow: &Flow<A>, config: &Config, line: &mut Listed) {
    let place = flow::place(flow.mix(&config.table_keys), config.flow_mask);
    if line.state == State::SynRecv as u8 {
        let Some(bucket) = half_open(&place) else { return };
        let (index, slot) = flow::half_open_slot(bucket, &place, 0);
        if slot == Slot::Own {
            flow::describe(bucket, index, line);
        }
    } else if let Some((bucket, index)) = locate(&place, config) {
        flow::describe(bucket, index, line);
    }
}
