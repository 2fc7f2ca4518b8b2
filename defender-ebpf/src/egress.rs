//! Watches what this host sends: how its kernel answers SYNs.

use aya_ebpf::programs::TcContext;
use defender_common::{
    classify::{Class, classify},
    filter::Noted,
    learn,
    verdict::Reason,
    wire::{
        Ip,
        address::{Address, Flow},
        ethernet::{self, Network},
        ipv4, ipv6,
        tcp::{self, Segment},
    },
};

use crate::{config, filter, flow, maps::LEARNT, packet::SkbPacket, service};

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
        Class::SynAck if is_own(ctx, segment.flow.source) => answers(packet, &segment),
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
    filter::note(flow.reversed().mix(&config.table_keys), config, Noted::Followed);
}

/// This host's kernel answers a SYN.
#[inline(always)]
fn answers<A: Address>(packet: &SkbPacket, segment: &Segment<A>) {
    let Some(found) = service::find(segment.flow.source, segment.flow.source_port) else { return };
    flow::answers(segment, config::config());
    let Some(syn) = segment.options().syn(packet) else { return };
    if let Some(learnt) = LEARNT.get_ptr_mut(found.id) {
        // SAFETY: a map value; CPUs that write at the same time write what the same kernel sends.
        learn::syn_ack(unsafe { &mut *learnt }, segment, &syn.offer);
    }
}
