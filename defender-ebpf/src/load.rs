//! The load on a service, see `defender_common::load` and `mitigation`.

use defender_common::{
    abi::{EVENT_STEP, Event, Load, Loads, ServiceCounters, in_place},
    decide::Policy,
    field,
    load::{self, BATCH, Change, Time},
    mitigation::Level,
    queue::Queue,
    shared::Shared,
};

pub(crate) use defender_common::load::{passes_unchallenged, sends_cookie};

use crate::{
    account,
    atomic::Atomic,
    clock, config,
    maps::{EVENTS, in_place, shared},
    service::{self, Found},
    socket::Looked,
};

/// The load of a service.
#[inline(always)]
pub(crate) fn of(service: u32) -> &'static Shared<Load> {
    let loads: *mut Loads = in_place!(in_place::LOADS);
    shared(loads, service)
}

/// Notes a listener's queues.
#[inline(always)]
pub(crate) fn note_queue(service: u32, queue: Queue) {
    // CPUs that look at the same time see about the same.
    let load = of(service);
    field!(load.queue).set(queue.pack());
}

/// The same of a look-up, if it found a listener.
#[inline(always)]
pub(crate) fn note_looked(service: u32, looked: Looked) {
    load_note(service as u64, looked.0);
}

// Out of line: the verifier need not follow what was found and what was not.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_note(id: u64, looked: u64) -> u64 {
    if let Some(queue) = Looked(looked).listener() {
        note_queue(id as u32, queue);
    }
    0
}

/// Whether the level may change now: in a new second, or where any SYN may start mitigation.
#[inline(always)]
pub(crate) fn may_change_level(found: &Found, load: &Shared<Load>, time: Time) -> bool {
    field!(load.second).get() != time.second as u64 || Policy::may_begin(found.service, load)
}

/// What a SYN means for its service.
pub(crate) struct Arrival {
    /// By how many SYNs it counts, see [`load::batch`].
    pub(crate) count: u32,
    /// The mitigation level it leads to.
    pub(crate) level: Level,
}

impl Arrival {
    /// A SYN that does not count.
    #[inline(always)]
    pub(crate) fn uncounted(load: &Shared<Load>) -> Self {
        Self { count: 0, level: load::mitigation(load).level }
    }
}

/// Counts a SYN. In a flood most are not counted one by one; then there is something to do only where it
/// [`may_change_level`].
#[inline(always)]
pub(crate) fn count_syn(
    found: &Found,
    load: &Shared<Load>,
    counters: &Shared<ServiceCounters>,
    time: Time,
    may_change_level: bool,
) -> Arrival {
    let count = load::batch(load, field!(counters.syn_received).get());
    if may_change_level {
        advance(found.id, load, time);
    }
    if count != 0 || may_change_level {
        tell(found.id, load_count(found.id as u64, count as u64, pack(time)), time);
    }
    Arrival { count, level: load::mitigation(load).level }
}

/// Counts an out-of-state packet.
#[inline(always)]
pub(crate) fn count_out_of_state(id: u32, load: &Shared<Load>, is_rst: bool) {
    if account::out_of_state(id, is_rst).is_multiple_of(BATCH as u64) {
        let time = clock::time();
        advance(id, load, time);
        tell(id, load_count(id as u64, (BATCH as u64) << 32, pack(time)), time);
    }
}

/// Brings a service to the present.
#[inline(always)]
fn advance(id: u32, load: &Shared<Load>, time: Time) {
    if field!(load.second).get() != time.second as u64 {
        step_on(id, time);
    }
}

/// [`load::advance`], in two parts, each with a stack of its own.
#[inline(always)]
fn step_on(id: u32, time: Time) {
    let passed = load_pass(id as u64, pack(time));
    if passed != NOTHING_TO_DO {
        tell(id, load_settle(id as u64, passed, pack(time)), time);
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
    let (load, config, time) = (of(id as u32), config::config(), unpack(time));
    let Some(idle) = load::pass::<Atomic>(load, config.age_buckets, time) else { return NOTHING_TO_DO };
    if !Policy::challenges(service::of(id as u32), load, config) {
        passes_unchallenged(load, time.ms);
    }
    idle as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_settle(id: u64, idle: u64, time: u64) -> u64 {
    let id = id as u32;
    packed(load::settle::<Atomic>(of(id), &service::of(id).triggers, idle != 0, unpack(time)))
}

/// Counts arrivals: SYNs in the lower half, out-of-state packets in the upper.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_count(id: u64, arrivals: u64, time: u64) -> u64 {
    let id = id as u32;
    packed(load::count_syn::<Atomic>(of(id), &service::of(id).triggers, arrivals, unpack(time)))
}

/// A change of level, as an event has it; 0: none.
#[inline(always)]
fn packed(change: Option<Change>) -> u64 {
    change.map_or(0, |change| change.from as u64 | (change.to as u64) << 8 | (change.trigger as u64) << 16)
}

#[inline(always)]
fn tell(id: u32, change: u64, time: Time) {
    if change != 0 {
        load_tell(id as u64, change, time.ms as u64);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_tell(id: u64, change: u64, ms: u64) -> u64 {
    let event = Event { kind: EVENT_STEP, subject: id as u32, detail: change as u32, at: ms as u32 };
    // If the buffer is full the controller sees the level when it looks by itself.
    let _ = EVENTS.output::<Event>(event, 0);
    0
}

/// A SYN has passed and will be in the queue of the listener that was found, if one was.
#[inline(always)]
pub(crate) fn passes(service: u32, looked: Looked, now: u32) {
    load_passes(service as u64, looked.0, now as u64);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_passes(id: u64, looked: u64, now: u64) -> u64 {
    if Looked(looked).listener().is_some() {
        load::passes::<Atomic>(of(id as u32), now as u32);
    }
    0
}

/// The kernel has answered a SYN that passed.
#[inline(always)]
pub(crate) fn answered(id: u32) {
    load::answered::<Atomic>(of(id), clock::now());
}

/// Counts SYNs that do not pass, in the lower half, and those that are answered or would be but for the limit, in the upper.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_averted(id: u64, counts: u64, second: u64) -> u64 {
    load::averted::<Atomic>(of(id as u32), counts as u32, second as u32);
    load::replied::<Atomic>(of(id as u32), (counts >> 32) as u32, second as u32);
    0
}

/// The kernel has taken a connection by its cookie.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn load_proved(id: u64, second: u64) -> u64 {
    load::proved::<Atomic>(of(id as u32), second as u32);
    0
}

/// Whether mode `auto` would have challenged a SYN that mode `monitor` lets pass at this level; counts it.
#[inline(always)]
pub(crate) fn would_challenge(found: &Found, level: Level) -> bool {
    let would = Policy::would_challenge(found.service, level);
    if would {
        account::would_challenge(found.id);
    }
    would
}
