//! How much a service has to bear, see `defender_common::load` and `ladder`.

use defender_common::{
    abi::{EVENT_STEP, Event, Load, Loads, ServiceCounters, in_place},
    decide::Policy,
    load::{self, BATCH, Change, Time},
};

use crate::{
    account,
    atomic::Shared,
    clock, config,
    maps::{EVENTS, entry_of, in_place},
    service::{self, Found},
};

/// The load of a service.
#[inline(always)]
pub(crate) fn of(service: u32) -> &'static mut Load {
    let loads: *mut Loads = in_place!(in_place::LOADS);
    // SAFETY: an entry of a map's value, of integers; what CPUs write at the same time is written by atomic operations.
    unsafe { &mut *entry_of(loads, service) }
}

/// A SYN arrives: before it is judged, what it means for its service. Most of a flood's are not counted one by one, and
/// then there is something to do only in a new second or where any SYN may be the one too many. Returns by how many it
/// counts, see [`load::batch`].
#[inline(always)]
pub(crate) fn arrives(found: &Found, load: &Load, counters: &ServiceCounters, time: Time) -> u32 {
    let count = load::batch(load, counters.syn_received);
    let load = advance(found.id, load, time);
    if count != 0 || Policy::may_begin(found.service, load) {
        load_count(found.id as u64, count as u64, pack(time));
    }
    count
}

/// A packet of no connection arrives.
#[inline(always)]
pub(crate) fn stray(id: u32, load: &Load, is_rst: bool) {
    if account::stray(id, is_rst).is_multiple_of(BATCH as u64) {
        let time = clock::time();
        advance(id, load, time);
        load_count(id as u64, (BATCH as u64) << 32, pack(time));
    }
}

/// The kernel holds a half-open connection of which nothing was known.
#[inline(always)]
pub(crate) fn learnt(id: u32, time: Time) {
    step_on(id, time);
    load_opened(id as u64, time.second as u64);
}

/// Brings a service to the present, and gives it back as it is then.
#[inline(always)]
fn advance(id: u32, load: &Load, time: Time) -> &Load {
    if load.second as u32 == time.second {
        return load;
    }
    step_on(id, time);
    of(id)
}

/// [`load::advance`], in two parts, each with a stack of its own.
#[inline(always)]
fn step_on(id: u32, time: Time) {
    let passed = load_pass(id as u64, pack(time));
    if passed != NOTHING_TO_DO {
        load_settle(id as u64, passed, pack(time));
    }
}

/// What [`load_pass`] returns besides whether the service was idle.
const NOTHING_TO_DO: u64 = 2;

#[inline(always)]
const fn pack(time: Time) -> u64 {
    (time.ms as u64) << 32 | time.second as u64
}

#[inline(always)]
const fn unpack(time: u64) -> Time {
    Time { ms: (time >> 32) as u32, second: time as u32 }
}

// Global functions: the verifier looks at each once, by itself.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_pass(id: u64, time: u64) -> u64 {
    let passed = load::pass::<Shared>(of(id as u32), config::config().cohorts, unpack(time));
    passed.map_or(NOTHING_TO_DO, |idle| idle as u64)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_settle(id: u64, idle: u64, time: u64) -> u64 {
    let (id, time) = (id as u32, unpack(time));
    tell(id, load::settle::<Shared>(of(id), &service::of(id).lines, idle != 0, time), time);
    0
}

/// Counts what arrives: SYNs, in the lower half, and packets of no connection.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_count(id: u64, arrivals: u64, time: u64) -> u64 {
    let (id, time) = (id as u32, unpack(time));
    tell(id, load::arrives::<Shared>(of(id), &service::of(id).lines, arrivals, time), time);
    0
}

#[inline(always)]
fn tell(id: u32, change: Option<Change>, time: Time) {
    if let Some(change) = change {
        let detail = change.from as u32 | (change.to as u32) << 8 | (change.because as u32) << 16;
        // If the buffer is full the controller sees the step when it looks by itself.
        let _ = EVENTS.output::<Event>(Event { kind: EVENT_STEP, subject: id, detail, at: time.ms }, 0);
    }
}

/// A SYN has passed: its connection is held from now on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_opened(id: u64, second: u64) -> u64 {
    load::opened::<Shared>(of(id as u32), second as u32);
    0
}

/// A connection that is held since second `began` is so no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_closed(id: u64, began: u64, second: u64) -> u64 {
    load::closed::<Shared>(of(id as u32), began as u32, config::config().cohorts, second as u32);
    0
}

/// `count` SYNs do not pass.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_spared(id: u64, count: u64, second: u64) -> u64 {
    load::spared::<Shared>(of(id as u32), count as u32, second as u32);
    0
}

/// The kernel has taken a connection by its cookie.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_proved(id: u64, second: u64) -> u64 {
    load::proved::<Shared>(of(id as u32), second as u32);
    0
}

/// Whether mode `auto` would have challenged a SYN that mode `monitor` lets pass; counts it.
#[inline(always)]
pub(crate) fn would_challenge(found: &Found) -> bool {
    let would = Policy::would_challenge(found.service, of(found.id));
    if would {
        account::would_challenge(found.id);
    }
    would
}
