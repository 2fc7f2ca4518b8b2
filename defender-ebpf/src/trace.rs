//! The last verdicts on each peer, see `defender_common::trace`.

pub(crate) use defender_common::trace::is_worth_it;
use defender_common::{
    abi::{Config, TraceLines, in_place},
    budget,
    shared::Shared,
    trace::{self, TraceSlot, TracedVerdict, UNPROVEN_PER_SECOND},
    verdict::Reason,
    wire::address::{Address, Flow},
};

use crate::maps::{in_place, shared};

/// Notes a verdict on a packet to a service. `crowded` says that there are more strangers in this second than can
/// be noted, whether those before were or not; `noted` is this CPU's cell.
#[inline(always)]
pub(crate) fn note<A: Address>(
    flow: &Flow<A>,
    reason: Reason,
    config: &Config,
    noted: &Shared<u32>,
    now: u32,
    crowded: bool,
) {
    if !reason.is_proven() && (crowded || budget::charge_cell(noted, now) > UNPROVEN_PER_SECOND) {
        return;
    }
    let slot = trace::slot(flow.source, &config.table_keys);
    let about = (now as u64) << 32 | (flow.destination_port as u64) << 16 | reason as u64;
    trace_note((slot.tag as u64) << 32 | slot.line as u64, about, reason.is_proven() as u64);
}

/// Global: the verifier looks at it once, not once for every way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_note(slot: u64, about: u64, is_proven: u64) -> u64 {
    let slot = TraceSlot { line: slot as u32, tag: (slot >> 32) as u32 };
    let verdict =
        TracedVerdict { reason: about as u16, is_proven: is_proven != 0, port: (about >> 16) as u16 };
    let lines: *mut TraceLines = in_place!(in_place::TRACE);
    trace::note(shared(lines, slot.line), slot, verdict, (about >> 32) as u32);
    0
}
