//! The last verdicts on each peer, see `defender_common::trace`.

pub(crate) use defender_common::trace::is_worth_it;
use defender_common::{
    abi::{Config, TraceLines, in_place},
    budget,
    trace::{self, Place, UNPROVEN_PER_SECOND, Verdict},
    verdict::Reason,
    wire::address::{Address, Flow},
};

use crate::maps::{entry_of, in_place};

/// Notes a verdict on a packet to a service. `crowded` says that there are more strangers in this second than can
/// be noted, whether those before were or not; `noted` is this CPU's cell.
#[inline(always)]
pub(crate) fn note<A: Address>(
    flow: &Flow<A>,
    reason: Reason,
    config: &Config,
    noted: &mut u32,
    now: u32,
    crowded: bool,
) {
    if !reason.is_proven() && (crowded || !may_note(noted, now)) {
        return;
    }
    let place = trace::place(flow.source, &config.table_keys);
    let about = (now as u64) << 32 | (flow.destination_port as u64) << 16 | reason as u64;
    trace_note((place.tag as u64) << 32 | place.line as u64, about, reason.is_proven() as u64);
}

/// Global: the verifier looks at it once, not once for every way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trace_note(place: u64, about: u64, is_proven: u64) -> u64 {
    let place = Place { line: place as u32, tag: (place >> 32) as u32 };
    let verdict = Verdict { reason: about as u16, is_proven: is_proven != 0, port: (about >> 16) as u16 };
    let lines: *mut TraceLines = in_place!(in_place::TRACE);
    // SAFETY: an entry of a map's value, of integers; CPUs that write at the same time cost a note.
    let line = unsafe { &mut *entry_of(lines, place.line) };
    trace::note(line, place, verdict, (about >> 32) as u32);
    0
}

#[inline(always)]
fn may_note(noted: &mut u32, now: u32) -> bool {
    *noted = budget::charge(*noted, now);
    budget::count(*noted) <= UNPROVEN_PER_SECOND
}
