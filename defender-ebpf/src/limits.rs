//! Limits and budgets: which SYNs get no answer (`decide::beyond_limits`), and which out-of-state segments pass
//! (`defender_common::budget`). Global functions: the verifier looks at each once, by itself.

use defender_common::{
    abi::{BudgetLines, in_place},
    budget::{self, Kind, OUT_OF_STATE_PER_SECOND},
    cookie, decide, field,
    mitigation::Level,
    shared::Shared,
    verdict::Reason,
};

use crate::{
    account, config, load,
    maps::{in_place, shared},
    service, validated_sources,
};

/// Why a valid SYN to a service gets no answer. `places` are those of its source in `VALID_SOURCES`.
#[inline(always)]
pub(crate) fn beyond(service: u32, level: Level, prefix: u64, places: u64, now: u32) -> Option<Reason> {
    match beyond_limits((level as u64) << 32 | service as u64, prefix, places, now as u64) {
        NONE => None,
        OVER_LIMIT => Some(Reason::SynOverLimit),
        UNKNOWN_SOURCE => Some(Reason::SynUnknownSource),
        _ => Some(Reason::SynOverBudget),
    }
}

/// What global functions return for none, or nothing.
pub(crate) const NONE: u64 = 0;
const OVER_LIMIT: u64 = 1;
const UNKNOWN_SOURCE: u64 = 2;
const OVER_BUDGET: u64 = 3;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn beyond_limits(service: u64, prefix: u64, places: u64, now: u64) -> u64 {
    let limit = config::config().reply_budget;
    let charge = || limit == 0 || charge(prefix, Kind::Reply, now as u32) <= limit;
    let triggers = &service::of(service as u32).triggers;
    let level = Level::from_abi((service >> 32) as u8);
    match decide::beyond_limits(level, load::of(service as u32), triggers, charge, || {
        validated_sources::are_validated(places)
    }) {
        None => NONE,
        Some(Reason::SynOverLimit) => OVER_LIMIT,
        Some(Reason::SynUnknownSource) => UNKNOWN_SOURCE,
        Some(_) => OVER_BUDGET,
    }
}

/// Out-of-state segments of any source may pass.
const ANYBODYS: u64 = 1;
/// Those of validated sources may.
const VALID_SOURCES: u64 = 2;

/// The quota of this CPU that lets it consider one more out-of-state segment, or [`NONE`]. A flood gets no further.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn out_of_state_quota(places: u64, now: u64) -> u64 {
    let Some(counters) = account::counters() else { return NONE };
    if config::config().out_of_state_budget == 0 {
        NONE
    } else if is_within(field!(counters.out_of_state), now as u32) {
        ANYBODYS
    } else if validated_sources::are_validated(places) {
        VALID_SOURCES
    } else {
        NONE
    }
}

/// Whether an out-of-state segment passes: it belongs to no handshake under way, and is within the budget of its network. `stamps` are its timestamp and, in the lower half, what it echoes, or 0; `clocks` are the time and the offset of our
/// timestamps.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn charge_out_of_state(prefix: u64, stamps: u64, clocks: u64, quota: u64) -> u64 {
    let now = (clocks >> 32) as u32;
    if stamps != 0 && cookie::may_be_under_way(stamps as u32, now, clocks as u32)
        || charge(prefix, Kind::OutOfState, now) > config::config().out_of_state_budget
    {
        return 0;
    }
    let Some(counters) = account::counters() else { return 0 };
    (quota != VALID_SOURCES || is_within(field!(counters.out_of_state_validated), now)) as u64
}

/// Counts one more of this kind of a network. Returns how many there were in this second.
#[inline(always)]
fn charge(prefix: u64, kind: Kind, now: u32) -> u32 {
    let slot = budget::slot(prefix, kind, config::config().secret);
    let lines: *mut BudgetLines = in_place!(in_place::BUDGET);
    // CPUs may count at the same time and lose one another's, which makes the budget a little larger, not smaller.
    budget::charge_line(shared(lines, slot.line), slot, now)
}

/// Counts in a cell of this CPU's.
#[inline(always)]
fn is_within(cell: &Shared<u32>, now: u32) -> bool {
    budget::charge_cell(cell, now) <= OUT_OF_STATE_PER_SECOND
}
