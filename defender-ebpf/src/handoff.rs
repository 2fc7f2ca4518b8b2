//! Hands proven connections to the kernel: XDP marks their packets, tcx ingress acts on the mark.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_skc_to_tcp_sock, bpf_xdp_adjust_meta},
    programs::{TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use defender_common::{
    abi::{Handoff, INTERFACE_NO_METADATA, Interface},
    classify::{Class, classify},
    cookie::Terms,
    decide::Policy,
    filter::Noted,
    mark::{MAGIC, Mark},
    recent::{ASSIGN_MS, PASS_MS, What},
    verdict::Reason,
    wire::{
        Ip,
        address::Flow,
        ethernet::{self, Frame, Network},
        ipv4, ipv6, tcp,
    },
};

use crate::{
    account, clock, config, filter, kfunc, load,
    packet::SkbPacket,
    recent, service,
    socket::{Held, Tupled},
    surroundings::{self, Around},
};

/// Remembers the connection and marks its packet. Called by XDP.
#[inline(always)]
pub(crate) fn announce<A: Tupled>(around: &mut Around<'_, A>, reason: Reason) -> Reason {
    if reason == Reason::Cookie {
        let now = around.now();
        recent::note(&around.segment.flow, around.config, What::Proved, now);
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

/// Whether a packet may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Open,
    /// Its listener has no room for it.
    Closed,
}

/// Acts on a packet's mark. Called at tcx ingress for every packet.
#[inline(always)]
pub(crate) fn accept(ctx: &TcContext) -> Passage {
    let marked_by = marked_by(ctx);
    let ingress = if marked_by != 0 { marked_by } else { ifindex(ctx) };
    let Some(interface) = config::interface(ingress) else { return Passage::Open };
    if marked_by == 0 && interface.flags & INTERFACE_NO_METADATA == 0 {
        return Passage::Open;
    }
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let done = match ethernet::parse(&packet) {
        // The outer tag is off by now. Below an inner one the kernel takes no hand-off: the VLAN device's turn comes.
        Ok(Frame { network_offset, .. }) if network_offset != ethernet::HEADER_LEN => return Passage::Open,
        Ok(Frame { network: Network::V4, network_offset }) => {
            hand_over(ctx, &packet, interface, ipv4::parse(&packet, network_offset))
        }
        Ok(Frame { network: Network::V6, network_offset }) => {
            hand_over(ctx, &packet, interface, ipv6::parse(&packet, network_offset))
        }
        _ => None,
    };
    if marked_by != 0 && done.is_none() {
        account::handoff(Handoff::Unreadable, 0);
    }
    done.unwrap_or(Passage::Open)
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
) -> Option<Passage> {
    let ip = ip.ok()?;
    let segment = tcp::parse(packet, &ip).ok()?;
    let config = config::config();
    let flow = &segment.flow;
    let Some(found) = service::find(flow.destination, flow.destination_port) else {
        return Some(Passage::Open);
    };
    let load = load::of(found.id);
    if classify(segment.flags) != Class::Ack
        || !Policy::accepts_cookies(found.service, load, config, clock::now)
    {
        return Some(Passage::Open);
    }
    let now = clock::now();
    let proven = surroundings::proven(packet, &segment, interface, found.service);
    if proven.is_none() && !recent::seen(flow, config, What::Proved, now, PASS_MS) {
        return Some(Passage::Open);
    }
    let (outcome, passage) = match listener(ctx, flow) {
        Err(outcome) => (outcome, Passage::Open),
        // Without room the kernel would drop the acknowledgement of a handshake and wait for it to come again. What goes
        // on from here instead would meet the bare listener, which resets.
        Ok(listener) if listener.is_full(config) => (Handoff::QueueFull, Passage::Closed),
        Ok(listener) => match proven {
            None => return Some(Passage::Open),
            Some(_) if recent::seen(flow, config, What::Assigned, now, ASSIGN_MS) => {
                (Handoff::Repeated, Passage::Open)
            }
            Some((terms, stamps)) => (assign(ctx, &listener, &terms, stamps), Passage::Open),
        },
    };
    if outcome == Handoff::Assigned {
        recent::note(flow, config, What::Assigned, now);
        filter::note(flow.mix(&config.table_keys), config, Noted::Followed);
    }
    if proven.is_some() || outcome == Handoff::QueueFull {
        account::handoff(outcome, found.id);
    }
    Some(passage)
}

/// The listener of a connection that is not there yet.
#[inline(always)]
fn listener<A: Tupled>(ctx: &TcContext, flow: &Flow<A>) -> Result<Held, Handoff> {
    match Held::lookup(ctx.skb.skb.cast(), flow) {
        None => Err(Handoff::NoListener),
        Some(socket) if !socket.listens() => Err(Handoff::AlreadyKnown),
        Some(socket) => Ok(socket),
    }
}

#[inline(always)]
fn assign(ctx: &TcContext, listener: &Held, terms: &Terms, stamps: (u32, u32)) -> Handoff {
    // SAFETY: the socket is held.
    let listener = unsafe { bpf_skc_to_tcp_sock(listener.as_ptr()) };
    if listener.is_null() {
        return Handoff::NoListener;
    }
    // SAFETY: the listener is held, and this is a tc ingress program.
    let result = unsafe { kfunc::assign_reqsk(ctx.skb.skb, listener.cast(), terms, stamps) };
    if result != 0 {
        // Rare, and off unless the controller was told to say more: the verifier then leaves it out.
        debug!(ctx, "the kernel refused a hand-off: error {}", -result);
    }
    match result {
        0 => Handoff::Assigned,
        -12 => Handoff::RefusedMemory,
        -22 => Handoff::RefusedInvalid,
        -101 => Handoff::RefusedNamespace,
        _ => Handoff::RefusedOther,
    }
}
