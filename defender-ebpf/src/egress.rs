//! Watches what this host sends: how its kernel answers SYNs.

use aya_ebpf::programs::TcContext;
use defender_common::{
    classify::{Class, classify},
    learn,
    verdict::Reason,
    wire::{
        Ip,
        address::Address,
        ethernet::{self, Network},
        ipv4, ipv6, tcp,
    },
};

use crate::{maps::LEARNT, packet::SkbPacket, service};

/// Looks at a packet that leaves.
#[inline(always)]
pub(crate) fn watch(ctx: &TcContext) {
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let Ok(frame) = ethernet::parse(&packet) else { return };
    match frame.network {
        Network::V4 => outbound(&packet, ipv4::parse(&packet, frame.network_offset)),
        Network::V6 => outbound(&packet, ipv6::parse(&packet, frame.network_offset)),
        Network::Other => {}
    }
}

#[inline(always)]
fn outbound<A: Address>(packet: &SkbPacket, ip: Result<Ip<A>, Reason>) {
    let Ok(segment) = ip.and_then(|ip| tcp::parse(packet, &ip)) else { return };
    if classify(segment.flags) != Class::SynAck {
        return;
    }
    let Some(found) = service::find(segment.flow.source, segment.flow.source_port) else { return };
    let Some(syn) = segment.options().syn(packet) else { return };
    if let Some(learnt) = LEARNT.get_ptr_mut(found.id) {
        // SAFETY: a map value; CPUs that write at the same time write what the same kernel sends.
        learn::syn_ack(unsafe { &mut *learnt }, &segment, &syn.offer);
    }
}
