//! Hands proven connections to the kernel: XDP writes a ticket into the packet's metadata, tcx ingress acts on it.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_skc_to_tcp_sock, bpf_xdp_adjust_meta},
    programs::{TcContext, XdpContext},
};
use defender_common::{
    abi::{Handoff, INTERFACE_NO_METADATA},
    classify::{Class, classify},
    decide::{Policy, Socket},
    recent::{self, ASSIGN_MS, What},
    ticket::Ticket,
    verdict::Reason,
    wire::{
        Ip,
        address::Flow,
        ethernet::{self, Network},
        ipv4, ipv6, tcp,
    },
};

use crate::{
    account, clock, config, kfunc,
    maps::RECENT,
    packet::SkbPacket,
    service,
    socket::{self, Held, Tupled},
    surroundings::{self, Around},
};

/// Remembers the connection and gives its packet a ticket. Called by XDP.
#[inline(always)]
pub(crate) fn announce<A: Tupled>(around: &Around<'_, A>, service: u32) -> Reason {
    let Some((terms, stamps)) = around.proven else { return Reason::Cookie };
    note(&around.segment.flow, around.config.secret, What::Proved);
    let ticket = Ticket::new(&terms, stamps, service);
    if attach(around.packet.context, ticket).is_none() {
        config::set_no_metadata(around.interface.ifindex);
    }
    Reason::Cookie
}

#[inline(always)]
fn attach(context: *mut xdp_md, ticket: Ticket) -> Option<()> {
    // SAFETY: the context is the program's own; pointers into the packet are not used after this.
    if unsafe { bpf_xdp_adjust_meta(context, -(size_of::<Ticket>() as i32)) } != 0 {
        return None;
    }
    let ctx = XdpContext::new(context);
    let at = ctx.metadata();
    if at + size_of::<Ticket>() > ctx.data() {
        return None;
    }
    // SAFETY: the bytes are metadata, which the verifier checks again; metadata is aligned to four.
    unsafe { *(at as *mut Ticket) = ticket };
    Some(())
}

/// Acts on a packet's ticket. Called at tcx ingress for every packet.
#[inline(always)]
pub(crate) fn accept(ctx: &TcContext) {
    let ticket = ticket(ctx);
    if !ticket.is_valid() && !carries_no_metadata(ctx) {
        return;
    }
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let Ok(frame) = ethernet::parse(&packet) else { return unreadable(&ticket) };
    match frame.network {
        Network::V4 => hand_over(ctx, &packet, ipv4::parse(&packet, frame.network_offset), ticket),
        Network::V6 => hand_over(ctx, &packet, ipv6::parse(&packet, frame.network_offset), ticket),
        Network::Other => unreadable(&ticket),
    }
}

#[inline(always)]
fn unreadable(ticket: &Ticket) {
    if ticket.is_valid() {
        account::handoff(Handoff::Unreadable, ticket.service);
    }
}

/// The packet's ticket.
#[inline(always)]
fn ticket(ctx: &TcContext) -> Ticket {
    // SAFETY: a field of the program's own context.
    let at = unsafe { (*ctx.skb.skb).data_meta } as usize;
    if at + size_of::<Ticket>() > ctx.data() {
        return Ticket::default();
    }
    // SAFETY: the bytes are metadata, which the verifier checks again.
    unsafe { *(at as *const Ticket) }
}

#[inline(always)]
fn carries_no_metadata(ctx: &TcContext) -> bool {
    config::interface(ifindex(ctx)).is_some_and(|interface| interface.flags & INTERFACE_NO_METADATA != 0)
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
fn hand_over<A: Tupled>(ctx: &TcContext, packet: &SkbPacket, ip: Result<Ip<A>, Reason>, mut ticket: Ticket) {
    let Ok(segment) = ip.and_then(|ip| tcp::parse(packet, &ip)) else { return unreadable(&ticket) };
    if !ticket.is_valid() {
        ticket = check_again(ctx, packet, &segment).unwrap_or_default();
        if !ticket.is_valid() {
            return;
        }
    }
    let Some(config) = config::config() else { return };
    if recently_assigned(&segment.flow, config.secret) {
        return account::handoff(Handoff::Repeated, ticket.service);
    }
    let outcome = assign(ctx, &segment.flow, &ticket);
    if outcome == Handoff::Assigned {
        note(&segment.flow, config.secret, What::Assigned);
    }
    account::handoff(outcome, ticket.service);
}

/// The ticket of a packet whose driver cannot carry one: the cookie is checked a second time.
#[inline(always)]
fn check_again<A: Tupled>(ctx: &TcContext, packet: &SkbPacket, segment: &tcp::Segment<A>) -> Option<Ticket> {
    let found = service::find(segment.flow.destination, segment.flow.destination_port)?;
    let interface = config::interface(ifindex(ctx))?;
    if classify(segment.flags) != Class::Ack
        || !Policy::of(found.service, config::config()?).accepts_cookies
        || !config::is_local(interface, segment.flow.destination)
        || socket::state(ctx.skb.skb.cast(), &segment.flow) != Socket::Listener
    {
        return None;
    }
    let (terms, stamps) = surroundings::proven(packet, segment, interface, found.service)?;
    Some(Ticket::new(&terms, stamps, found.id))
}

#[inline(always)]
fn assign<A: Tupled>(ctx: &TcContext, flow: &Flow<A>, ticket: &Ticket) -> Handoff {
    let Some(socket) = Held::lookup(ctx.skb.skb.cast(), flow) else { return Handoff::NoListener };
    if !socket.listens() {
        return Handoff::AlreadyKnown;
    }
    // SAFETY: the socket is held.
    let listener = unsafe { bpf_skc_to_tcp_sock(socket.as_ptr()) };
    if listener.is_null() {
        return Handoff::NoListener;
    }
    // SAFETY: the listener is held, and this is a tc ingress program.
    match unsafe { kfunc::assign_reqsk(ctx.skb.skb, listener.cast(), ticket) } {
        0 => Handoff::Assigned,
        -12 => Handoff::RefusedMemory,
        -22 => Handoff::RefusedInvalid,
        -101 => Handoff::RefusedNamespace,
        _ => Handoff::RefusedOther,
    }
}

#[inline(always)]
fn recently_assigned<A: Tupled>(flow: &Flow<A>, secret: [u64; 2]) -> bool {
    let place = recent::place(flow, secret);
    let Some(bucket) = RECENT.get(place.bucket) else { return false };
    recent::seen(bucket, place, What::Assigned, clock::now(), ASSIGN_MS)
}

#[inline(always)]
fn note<A: Tupled>(flow: &Flow<A>, secret: [u64; 2], what: What) {
    let place = recent::place(flow, secret);
    if let Some(bucket) = RECENT.get_ptr_mut(place.bucket) {
        // SAFETY: a map value; writers on other CPUs may cost an entry (see defender_common::recent), nothing else.
        recent::note(unsafe { &mut *bucket }, place, what, clock::now());
    }
}
