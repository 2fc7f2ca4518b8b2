//! Hands proven connections to the kernel: XDP marks their packets, tcx ingress acts on the mark.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_skc_to_tcp_sock, bpf_xdp_adjust_meta},
    programs::{TcContext, XdpContext},
};
use defender_common::{
    abi::{Handoff, INTERFACE_NO_METADATA, Interface},
    classify::{Class, classify},
    cookie::Terms,
    decide::Policy,
    mark::{MAGIC, Mark},
    recent::{self, ASSIGN_MS, What},
    verdict::Reason,
    wire::{
        Ip,
        address::Flow,
        ethernet::{self, Frame, Network},
        ipv4, ipv6, tcp,
    },
};

use crate::{
    account, clock, config, filter, kfunc,
    maps::RECENT,
    packet::SkbPacket,
    service,
    socket::{Held, Tupled},
    surroundings::{self, Around},
};

/// Remembers the connection and marks its packet. Called by XDP.
#[inline(always)]
pub(crate) fn announce<A: Tupled>(around: &Around<'_, A>, reason: Reason) -> Reason {
    if reason == Reason::Cookie {
        note(&around.segment.flow, around.config.secret, What::Proved);
    }
    let mark = Mark { magic: MAGIC, ifindex: around.interface.ifindex };
    if attach(around.packet.context, mark).is_none() {
        config::set_no_metadata(around.interface.ifindex);
    }
    reason
}

#[inline(always)]
fn attach(context: *mut xdp_md, mark: Mark) -> Option<()> {
    // SAFETY: the context is the program's own; pointers into the packet are not used after this.
    if unsafe { bpf_xdp_adjust_meta(context, -(size_of::<Mark>() as i32)) } != 0 {
        return None;
    }
    let ctx = XdpContext::new(context);
    let at = ctx.metadata();
    if at + size_of::<Mark>() > ctx.data() {
        return None;
    }
    // SAFETY: the bytes are metadata, which the verifier checks again; metadata is aligned to four.
    unsafe { *(at as *mut Mark) = mark };
    Some(())
}

/// Acts on a packet's mark. Called at tcx ingress for every packet.
#[inline(always)]
pub(crate) fn accept(ctx: &TcContext) {
    let marked_by = marked_by(ctx);
    let ingress = if marked_by != 0 { marked_by } else { ifindex(ctx) };
    let Some(interface) = config::interface(ingress) else { return };
    if marked_by == 0 && interface.flags & INTERFACE_NO_METADATA == 0 {
        return;
    }
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let understood = match ethernet::parse(&packet) {
        Ok(Frame { network: Network::V4, network_offset }) => {
            hand_over(ctx, &packet, interface, ipv4::parse(&packet, network_offset))
        }
        Ok(Frame { network: Network::V6, network_offset }) => {
            hand_over(ctx, &packet, interface, ipv6::parse(&packet, network_offset))
        }
        _ => None,
    };
    if marked_by != 0 && understood.is_none() {
        account::handoff(Handoff::Unreadable, 0);
    }
}

/// The interface that marked the packet; 0: none did.
#[inline(always)]
fn marked_by(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    let at = unsafe { (*ctx.skb.skb).data_meta } as usize;
    if at + size_of::<Mark>() > ctx.data() {
        return 0;
    }
    // SAFETY: the bytes are metadata, which the verifier checks again.
    let mark = unsafe { *(at as *const Mark) };
    if mark.magic == MAGIC { mark.ifindex } else { 0 }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Hands over the connection of a segment that proves a cookie. Others go on as they are: later segments of a burst, and
/// on drivers without metadata everything else. None: the packet could not be read.
#[inline(always)]
fn hand_over<A: Tupled>(
    ctx: &TcContext,
    packet: &SkbPacket,
    interface: &Interface,
    ip: Result<Ip<A>, Reason>,
) -> Option<()> {
    let ip = ip.ok()?;
    let segment = tcp::parse(packet, &ip).ok()?;
    let config = config::config()?;
    let Some(found) = service::find(segment.flow.destination, segment.flow.destination_port) else {
        return Some(());
    };
    if classify(segment.flags) != Class::Ack || !Policy::of(found.service, config).accepts_cookies {
        return Some(());
    }
    let Some((terms, stamps)) = surroundings::proven(packet, &segment, interface, found.service) else {
        return Some(());
    };
    let flow = &segment.flow;
    if recently_assigned(flow, config.secret) {
        account::handoff(Handoff::Repeated, found.id);
        return Some(());
    }
    let outcome = assign(ctx, flow, &terms, stamps);
    if outcome == Handoff::Assigned {
        note(flow, config.secret, What::Assigned);
        filter::note(flow, config);
    }
    account::handoff(outcome, found.id);
    Some(())
}

#[inline(always)]
fn assign<A: Tupled>(ctx: &TcContext, flow: &Flow<A>, terms: &Terms, stamps: (u32, u32)) -> Handoff {
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
    match unsafe { kfunc::assign_reqsk(ctx.skb.skb, listener.cast(), terms, stamps) } {
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
