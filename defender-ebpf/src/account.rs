//! Counting: every packet under one reason, proven connections by what became of them.

use defender_common::{
    abi::{Counters, Handoff, ServiceCounters, Tracked},
    verdict::Reason,
};

use crate::{
    maps::{COUNTERS, SERVICE_COUNTERS},
    packet::hidden,
};

/// This CPU's counters: there always are.
#[inline(always)]
pub(crate) fn counters() -> Option<&'static mut Counters> {
    // SAFETY: this CPU's own value. Global functions that are called meanwhile write `tracked`, which who called them does not.
    COUNTERS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}

/// Counts a packet.
#[inline(always)]
pub(crate) fn verdict(counters: &mut Counters, reason: Reason) {
    if let Some(count) = counters.verdicts.get_mut(checked(reason as usize)) {
        *count += 1;
    }
}

/// The compiler knows that an enumeration's values are in bounds and would leave out the check; the verifier does not.
#[inline(always)]
fn checked(index: usize) -> usize {
    hidden(index)
}

/// Counts the outcome of a hand-off.
#[inline(always)]
pub(crate) fn handoff(outcome: Handoff, service: u32) {
    if let Some(counters) = counters()
        && let Some(count) = counters.handoff.get_mut(checked(outcome as usize))
    {
        *count += 1;
    }
    with_service(service, |counters| match outcome {
        Handoff::Assigned => counters.handoff_assigned += 1,
        outcome if outcome.is_failure() => counters.handoff_failed += 1,
        _ => {}
    });
}

/// Counts what happened in the flow table.
#[inline(always)]
pub(crate) fn tracked(what: Tracked) {
    if let Some(counters) = counters()
        && let Some(count) = counters.tracked.get_mut(checked(what as usize))
    {
        *count += 1;
    }
}

/// Counts a connection to a service that reached ESTABLISHED; `would` says that its SYN would have been challenged.
#[inline(always)]
pub(crate) fn established(service: u32, would: bool) {
    with_service(service, |counters| {
        counters.established += 1;
        counters.client_would_challenge += would as u64;
    });
}

/// This CPU's counters of a service.
#[inline(always)]
pub(crate) fn of_service(id: u32) -> Option<&'static mut ServiceCounters> {
    // SAFETY: as above.
    SERVICE_COUNTERS.get_ptr_mut(id).map(|counters| unsafe { &mut *counters })
}

/// Counts a packet of no connection. Returns how many this CPU has counted.
#[inline(always)]
pub(crate) fn stray(id: u32, is_rst: bool) -> u64 {
    let mut seen = 0;
    with_service(id, |counters| {
        let count = if is_rst { &mut counters.stray_rsts } else { &mut counters.stray_acks };
        *count += 1;
        seen = *count;
    });
    seen
}

/// Counts a SYN that passed and would have been challenged in mode `auto`.
#[inline(always)]
pub(crate) fn would_challenge(id: u32) {
    with_service(id, |counters| counters.syn_would_challenge += 1);
}

/// Counts a SYN to a service.
#[inline(always)]
pub(crate) fn syn(counters: &mut ServiceCounters, reason: Reason) {
    counters.syn_received += 1;
    match reason {
        Reason::SynChallenged => counters.syn_challenged += 1,
        Reason::SynOverLimit | Reason::SynUnknownSource => counters.syn_limited += 1,
        _ => {}
    }
}

/// Counts a packet to a service that is no SYN.
#[inline(always)]
pub(crate) fn going_on(id: u32, reason: Reason) {
    match reason {
        Reason::Cookie => with_service(id, |counters| counters.ack_accepted += 1),
        Reason::AckBadCookie => with_service(id, |counters| counters.ack_rejected += 1),
        _ => {}
    }
}

#[inline(always)]
fn with_service(id: u32, count: impl FnOnce(&mut ServiceCounters)) {
    if let Some(counters) = of_service(id) {
        count(counters);
    }
}
