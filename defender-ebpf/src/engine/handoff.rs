//! The hand-off, for engines that need one: XDP tags packets of proven connections, tcx ingress assigns them to their listener.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::bpf_xdp_adjust_meta,
    programs::{TcContext, XdpContext},
};
use defender_common::{
    abi::{Handoff, INTERFACE_NO_METADATA, Interface},
    classify::{Class, classify},
    decide::Policy,
    handoff_metadata::{HandoffMetadata, MAGIC},
    presence_filter::Noted,
    queue::Accept,
    validated_cookies::Progress,
    verdict::Reason,
    wire::{
        Ip,
        ethernet::{self, Frame, Network},
        ipv4, ipv6,
        tcp::{self, Segment},
    },
};

use crate::{
    account, clock, config,
    conntrack::{self, SegmentRole},
    context::PacketContext,
    load,
    packet::SkbPacket,
    presence_filter, service,
    socket::{SocketRef, Tupled},
    tcx, validated_cookies,
};

/// Remembers the connection and tags its packet. Called by XDP.
#[inline(always)]
pub(crate) fn tag<A: Tupled>(context: &mut PacketContext<'_, A>, reason: Reason) -> Reason {
    if reason == Reason::Cookie {
        let now = context.now();
        context.proofs &= validated_cookies::note(context.hash, Progress::Proved, now);
    }
    let metadata = HandoffMetadata { magic: MAGIC, ifindex: context.interface.ifindex };
    if attach(context.packet.context, metadata).is_none() {
        config::set_no_metadata(context.interface.ifindex);
    }
    reason
}

#[inline(always)]
fn attach(context: *mut xdp_md, tag: HandoffMetadata) -> Option<()> {
    let ctx = XdpContext::new(context);
    // In generic mode there are some.
    if ctx.metadata() == ctx.data() {
        // SAFETY: the context is the program's own; pointers into the packet are not used after this.
        if unsafe { bpf_xdp_adjust_meta(context, -(size_of::<HandoffMetadata>() as i32)) } != 0 {
            return None;
        }
    }
    let at = ctx.metadata();
    if at + size_of::<HandoffMetadata>() > ctx.data() {
        return None;
    }
    // SAFETY: the bytes are metadata, which the verifier checks again; metadata is aligned to four.
    unsafe { *(at as *mut HandoffMetadata) = tag };
    Some(())
}

/// Whether a packet may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// Its listener has no room for it.
    Closed,
    /// Conntrack comes first, whose part in it this is.
    Conntrack(SegmentRole),
}

/// Acts on a packet's tag. Called at tcx ingress for every packet. Returns what the kernel is to do with it.
#[inline(always)]
pub(crate) fn accept(ctx: &TcContext) -> i32 {
    if let Some(role) = conntrack::returning(ctx) {
        return conntrack::call(ctx, role);
    }
    let tagged_by = tagged_by(ctx);
    if tagged_by == 0 && conntrack::is_awaited() && is_behind(ctx) {
        return conntrack::call(ctx, SegmentRole::Waits);
    }
    let ingress = if tagged_by != 0 { tagged_by } else { ifindex(ctx) };
    let Some(interface) = config::interface(ingress) else { return tcx::NEXT };
    if tagged_by == 0 && interface.flags & INTERFACE_NO_METADATA == 0 {
        return tcx::NEXT;
    }
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let done = match ethernet::parse(&packet) {
        // The outer tag is off by now. Below an inner one the kernel takes no hand-off: the VLAN device's turn comes.
        Ok(Frame { network_offset, .. }) if network_offset != ethernet::HEADER_LEN => return tcx::NEXT,
        Ok(Frame { network: Network::V4, network_offset }) => {
            assign(ctx, &packet, interface, ipv4::parse(&packet, network_offset))
        }
        Ok(Frame { network: Network::V6, network_offset }) => {
            assign(ctx, &packet, interface, ipv6::parse(&packet, network_offset))
        }
        _ => None,
    };
    if tagged_by != 0 && done.is_none() {
        account::handoff(Handoff::Unreadable, 0);
    }
    done.unwrap_or(tcx::NEXT)
}

/// The interface at which the packet was tagged; 0: it was not.
#[inline(always)]
fn tagged_by(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    let at = unsafe { (*ctx.skb.skb).data_meta } as usize;
    if at + size_of::<HandoffMetadata>() > ctx.data() {
        return 0;
    }
    // SAFETY: the bytes are metadata, which the verifier checks again.
    let metadata = unsafe { *(at as *const HandoffMetadata) };
    if metadata.magic == MAGIC { metadata.ifindex } else { 0 }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Assigns a segment that proves a cookie. Others pass unchanged: later segments of a burst, and on drivers without metadata
/// everything else. None: the packet could not be read.
#[inline(always)]
fn assign<A: Tupled>(
    ctx: &TcContext,
    packet: &SkbPacket,
    interface: &Interface,
    ip: Result<Ip<A>, Reason>,
) -> Option<i32> {
    let ip = ip.ok()?;
    let segment = tcp::parse(packet, &ip).ok()?;
    Some(match pass(ctx, packet, interface, &segment) {
        Passage::Open => tcx::NEXT,
        Passage::Closed => tcx::DROP,
        Passage::Conntrack(role) => conntrack::call(ctx, role),
    })
}

#[inline(always)]
fn pass<A: Tupled>(
    ctx: &TcContext,
    packet: &SkbPacket,
    interface: &Interface,
    segment: &Segment<A>,
) -> Passage {
    let config = config::config();
    let flow = &segment.flow;
    let Some(found) = service::find(flow.destination, flow.destination_port) else {
        return Passage::Open;
    };
    let class = classify(segment.flags);
    if class == Class::Syn || !Policy::accepts_cookies(found.service, load::of(found.id), config, clock::now)
    {
        return Passage::Open;
    }
    let now = clock::now();
    let proven = match class {
        Class::Ack => super::check(packet, segment, interface, found.service),
        _ => None,
    };
    let hash = flow.hash(&config.table_keys);
    if proven.is_none() && !validated_cookies::has_proved(hash, now) {
        return Passage::Open;
    }
    let assigned = validated_cookies::is_assigned(hash, now);
    let (outcome, passage) = match SocketRef::lookup(ctx.skb.skb.cast(), flow) {
        None => (Handoff::NoListener, Passage::Open),
        Some(socket) if !socket.listens() => (
            Handoff::AlreadyKnown,
            if conntrack::is_awaited() { Passage::Conntrack(SegmentRole::Waits) } else { Passage::Open },
        ),
        // Without room the kernel would drop the acknowledgement of a handshake and wait for it to come again. Progress goes
        // on from here instead would meet the bare listener, which resets.
        Some(listener) if is_full(&listener, found.id) => (Handoff::QueueFull, Passage::Closed),
        Some(_) if assigned => (Handoff::Repeated, Passage::Conntrack(SegmentRole::Waits)),
        Some(listener) => match proven {
            None => return Passage::Open,
            Some(ref proof) => match super::assign(ctx, &listener, (flow, hash), proof) {
                Handoff::Assigned => (Handoff::Assigned, Passage::Conntrack(SegmentRole::HandedOver)),
                refused => (refused, Passage::Open),
            },
        },
    };
    if outcome == Handoff::Assigned {
        validated_cookies::note(hash, Progress::Assigned, now);
        presence_filter::note(hash, config, Noted::Tracked);
    }
    if proven.is_some() || outcome == Handoff::QueueFull {
        account::handoff(outcome, found.id);
    }
    passage
}

/// Whether an untagged segment is of a connection that proved a cookie a moment ago: others of it may be awaited.
#[inline(always)]
fn is_behind(ctx: &TcContext) -> bool {
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let hash = match ethernet::parse(&packet) {
        Ok(Frame { network: Network::V4, network_offset }) => {
            hash_of(&packet, ipv4::parse(&packet, network_offset))
        }
        Ok(Frame { network: Network::V6, network_offset }) => {
            hash_of(&packet, ipv6::parse(&packet, network_offset))
        }
        _ => None,
    };
    hash.is_some_and(|hash| validated_cookies::has_proved(hash, clock::now()))
}

#[inline(always)]
fn hash_of<A: Tupled>(packet: &SkbPacket, ip: Result<Ip<A>, Reason>) -> Option<u64> {
    let segment = tcp::parse(packet, &ip.ok()?).ok()?;
    Some(segment.flow.hash(&config::config().table_keys))
}

/// Whether the accept queue of a listener is full. That is noted for SYNs, which may not look it up.
#[inline(always)]
fn is_full(listener: &SocketRef, service: u32) -> bool {
    let queue = listener.queue().unwrap_or_default();
    let is_full = queue.accept == Accept::Full;
    if is_full {
        load::note_queue(service, queue);
    }
    is_full
}
