//! Counting: every packet under one reason, proven connections by what became of them.
//!
//! Counters are per CPU, so a plain addition loses nothing.

use defender_common::{
    abi::{Counters, Handoff, ServiceCounters, Tracked},
    field,
    shared::Shared,
    verdict::Reason,
};

use crate::{
    maps::{COUNTERS, SERVICE_COUNTERS},
    packet::hidden,
};

/// This CPU's counters: there always are.
#[inline(always)]
pub(crate) fn counters() -> Option<&'static Shared<Counters>> {
    // SAFETY: a map's value, to which nobody has another kind of reference.
    COUNTERS.get_ptr_mut(0).map(|counters| unsafe { Shared::at(counters) })
}

/// Counts a packet.
#[inline(always)]
pub(crate) fn verdict(counters: &Shared<Counters>, reason: Reason) {
    count(field!(counters.verdicts), reason as usize);
}

/// Counts one more in a cell. The compiler knows that an enumeration's values are in bounds and would leave out the check; the
/// verifier does not.
#[inline(always)]
fn count<const N: usize>(cells: &Shared<[u64; N]>, index: usize) {
    if let Some(cell) = cells.each().get(hidden(index)) {
        add(cell, 1);
    }
}

#[inline(always)]
fn add(cell: &Shared<u64>, more: u64) {
    cell.set(cell.get() + more);
}

/// Counts the outcome of a hand-off.
#[inline(always)]
pub(crate) fn handoff(outcome: Handoff, service: u32) {
    if let Some(counters) = counters() {
        count(field!(counters.handoff), outcome as usize);
    }
    with_service(service, |counters| match outcome {
        Handoff::Assigned => add(field!(counters.handoff_assigned), 1),
        Handoff::Established => add(field!(counters.handoff_established), 1),
        Handoff::QueueFull => add(field!(counters.handoff_queue_full), 1),
        outcome if outcome.is_failure() => {
            add(field!(counters.handoff_failed), 1);
            match outcome {
                Handoff::RefusedInvalid => add(field!(counters.refused_invalid), 1),
                Handoff::RefusedNamespace => add(field!(counters.refused_namespace), 1),
                Handoff::RefusedOther => add(field!(counters.refused_other), 1),
                _ => {}
            }
        }
        _ => {}
    });
}

/// Counts what happened in the flow table.
#[inline(always)]
pub(crate) fn tracked(what: Tracked) {
    if let Some(counters) = counters() {
        count(field!(counters.tracked), what as usize);
    }
}

/// Counts a connection to a service that reached ESTABLISHED; `would` says that its SYN would have been challenged.
#[inline(always)]
pub(crate) fn established(service: u32, would: bool) {
    with_service(service, |counters| {
        add(field!(counters.established), 1);
        add(field!(counters.client_would_challenge), would as u64);
    });
}

/// This CPU's counters of a service.
#[inline(always)]
pub(crate) fn of_service(id: u32) -> Option<&'static Shared<ServiceCounters>> {
    // SAFETY: as above.
    SERVICE_COUNTERS.get_ptr_mut(id).map(|counters| unsafe { Shared::at(counters) })
}

/// Counts an out-of-state packet. Returns how many this CPU has counted.
#[inline(always)]
pub(crate) fn out_of_state(id: u32, is_rst: bool) -> u64 {
    let mut seen = 0;
    with_service(id, |counters| {
        let cell =
            if is_rst { field!(counters.out_of_state_rsts) } else { field!(counters.out_of_state_acks) };
        add(cell, 1);
        seen = cell.get();
    });
    seen
}

/// Counts a SYN that passed and would have been challenged in mode `auto`.
#[inline(always)]
pub(crate) fn would_challenge(id: u32) {
    with_service(id, |counters| add(field!(counters.syn_would_challenge), 1));
}

/// Counts a SYN to a service.
#[inline(always)]
pub(crate) fn syn(counters: &Shared<ServiceCounters>, reason: Reason) {
    add(field!(counters.syn_received), 1);
    match reason {
        Reason::SynChallenged => add(field!(counters.syn_challenged), 1),
        Reason::SynOverLimit | Reason::SynUnknownSource => add(field!(counters.syn_limited), 1),
        _ => {}
    }
}

/// Counts a packet to a service that is no SYN, and so many connections that have proved a cookie by it.
#[inline(always)]
pub(crate) fn segment(id: u32, reason: Reason, proved: u64) {
    match reason {
        Reason::Cookie => with_service(id, |counters| {
            add(field!(counters.ack_accepted), 1);
            add(field!(counters.proved), proved);
        }),
        Reason::AckBadCookie | Reason::AckOutOfState => {
            with_service(id, |counters| add(field!(counters.ack_rejected), 1));
        }
        _ => {}
    }
}

#[inline(always)]
fn with_service(id: u32, count: impl FnOnce(&Shared<ServiceCounters>)) {
    if let Some(counters) = of_service(id) {
        count(counters);
    }
}
