//! tcx egress: follows what this host sends on connections that it answers, continues and opens.

use aya_ebpf::programs::TcContext;
use defender_common::{
    classify::{Class, classify},
    presence_filter::Noted,
    verdict::Reason,
    wire::{
        Ip,
        address::{Address, Flow},
        ethernet::{self, Network},
        ipv4, ipv6,
        tcp::{self, Segment},
    },
};

use crate::{config, flow, packet::SkbPacket, presence_filter, service};

/// Looks at a packet that leaves.
#[inline(always)]
pub(crate) fn watch(ctx: &TcContext) {
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let Ok(frame) = ethernet::parse(&packet) else { return };
    match frame.network {
        Network::V4 => outbound(ctx, &packet, ipv4::parse(&packet, frame.network_offset)),
        Network::V6 => outbound(ctx, &packet, ipv6::parse(&packet, frame.network_offset)),
        Network::Other => {}
    }
}

#[inline(always)]
fn outbound<A: Address>(ctx: &TcContext, packet: &SkbPacket, ip: Result<Ip<A>, Reason>) {
    let Ok(segment) = ip.and_then(|ip| tcp::parse(packet, &ip)) else { return };
    match classify(segment.flags) {
        Class::Syn => opens(&segment.flow),
        // Forwarded ones are another host's.
        Class::SynAck if is_own(ctx, segment.flow.source) => answers(&segment),
        Class::SynAck => {}
        _ => goes_on(&segment),
    }
}

/// This host goes on with a connection to a service. What is forwarded is none the flow table has.
#[inline(always)]
fn goes_on<A: Address>(segment: &Segment<A>) {
    if let Some(found) = service::find(segment.flow.source, segment.flow.source_port) {
        flow::outbound(segment, found.id, config::config());
    }
}

/// Whether an address is this host's.
#[inline(always)]
fn is_own<A: Address>(ctx: &TcContext, address: A) -> bool {
    // SAFETY: a field of the program's own context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    config::interface(ifindex).is_some_and(|interface| config::is_local(interface, address))
}

/// This host opens a connection: it will be in the socket table.
#[inline(always)]
fn opens<A: Address>(flow: &Flow<A>) {
    let config = config::config();
    presence_filter::note(flow.reversed().hash(&config.table_keys), config, Noted::Tracked);
}

/// This host's kernel answers a SYN.
#[inline(always)]
fn answers<A: Address>(segment: &Segment<A>) {
    if let Some(found) = service::find(segment.flow.source, segment.flow.source_port) {
        flow::answers(segment, found.id, config::config());
    }
}
