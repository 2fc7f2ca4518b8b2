//! The last verdicts on each peer, see `defender_common::trace`.

use aya_ebpf::{macros::map, maps::PerCpuArray};
pub(crate) use defender_common::trace::is_worth_it;
use defender_common::{
    abi::Config,
    budget,
    trace::{self, UNPROVEN_PER_SECOND},
    verdict::Reason,
    wire::address::{Address, Flow},
};

use crate::maps::TRACE;

/// Verdicts on unproven peers that this CPU has noted in this second, a cell as [`budget::charge`] has it.
#[map]
static NOTED: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Notes a verdict on a packet to a service.
#[inline(always)]
pub(crate) fn note<A: Address>(flow: &Flow<A>, reason: Reason, config: &Config, now: u32) {
    if !reason.is_proven() && !may_note(now) {
        return;
    }
    let place = trace::place(flow.source, &config.table_keys);
    if let Some(line) = TRACE.get_ptr_mut(place.line) {
        // SAFETY: a map value of integers; CPUs that write at the same time cost a note.
        trace::note(unsafe { &mut *line }, place, reason, flow.destination_port, now);
    }
}

#[inline(always)]
fn may_note(now: u32) -> bool {
    let Some(cell) = NOTED.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value; nothing else writes it while the program runs.
    let cell = unsafe { &mut *cell };
    let (next, count) = budget::charge(*cell, now);
    *cell = next;
    count <= UNPROVEN_PER_SECOND
}
