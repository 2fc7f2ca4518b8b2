//! The last verdicts on each peer, see `defender_common::trace`.

use aya_ebpf::{macros::map, maps::PerCpuArray};
pub(crate) use defender_common::trace::is_worth_it;
use defender_common::{
    abi::Config,
    budget,
    trace::{self, Place, UNPROVEN_PER_SECOND, Verdict},
    verdict::Reason,
    wire::address::{Address, Flow},
};

use crate::maps::TRACE;

/// Verdicts on unproven peers that this CPU has noted in this second, a cell as [`budget::charge`] has it.
#[map]
static NOTED: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Notes a verdict on a packet to a service. `crowded` says that there are more strangers in this second than can
/// be noted, whether those before were or not.
#[inline(always)]
pub(crate) fn note<A: Address>(flow: &Flow<A>, reason: Reason, config: &Config, now: u32, crowded: bool) {
    if !reason.is_proven() && (crowded || !may_note(now)) {
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
    if let Some(line) = TRACE.get_ptr_mut(place.line) {
        // SAFETY: a map value of integers; CPUs that write at the same time cost a note.
        trace::note(unsafe { &mut *line }, place, verdict, (about >> 32) as u32);
    }
    0
}

#[inline(always)]
fn may_note(now: u32) -> bool {
    let Some(cell) = NOTED.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value; nothing else writes it while the program runs.
    let cell = unsafe { &mut *cell };
    *cell = budget::charge(*cell, now);
    budget::count(*cell) <= UNPROVEN_PER_SECOND
}
