//! Rewrites a SYN into the SYN-ACK that challenges it, in place.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail};
use defender_common::{
    abi::CONFIG_REFLECT_TOS,
    cookie::Proposal,
    syn_ack::{self, Own, Replies, SynAck},
    verdict::Reason,
    wire::{ECN, options::Offer},
};

use crate::{context::PacketContext, engine, packet::XdpPacket, socket::Tupled};

/// Answers the SYN at hand.
#[inline(always)]
pub(crate) fn challenge<A: Replies + Tupled>(context: &mut PacketContext<'_, A>) -> Reason {
    let offer = context.offer();
    // Once for either kind of cookie: the compiler leaves out what only the other kind needs.
    if offer.timestamps {
        answer(context, &Offer { timestamps: true, ..offer })
    } else {
        answer(context, &Offer { timestamps: false, ..offer })
    }
}

#[inline(always)]
fn answer<A: Replies + Tupled>(context: &mut PacketContext<'_, A>, offer: &Offer) -> Reason {
    // The controller fills the keys before it attaches anything.
    let engine = engine::selected();
    let Some(proposal) = engine::propose(engine, context, offer) else { return Reason::SynSuspended };
    match write(engine, context, offer, proposal) {
        Some(()) => Reason::SynChallenged,
        None => Reason::SynRewriteFailed,
    }
}

/// Writes the SYN-ACK over the frame.
#[inline(always)]
fn write<A: Replies + Tupled>(
    engine: u32,
    context: &mut PacketContext<'_, A>,
    offer: &Offer,
    proposal: Proposal,
) -> Option<()> {
    let segment = context.segment;
    let frame = context.packet.context;
    let length = context.network_offset + syn_ack::bytes::<A>(&proposal.negotiated);
    let delta = length as i64 - context.packet.len() as i64;
    // A frame that is too short for the reply grows first; what is too long is cut off at the end.
    if delta > 0 {
        adjust(frame, delta)?;
    }
    let answer = engine::make(engine, context, proposal)?;
    let service = context.service;
    let interface_ttl = if A::FAMILY == 0 { context.interface.ttl } else { context.interface.hop_limit };
    let advertised = service.advertised[A::FAMILY & 1];
    let own = Own {
        mss: if advertised != 0 && advertised < proposal.host_mss { advertised } else { proposal.host_mss },
        // Without a mask: in either copy of this function the flag is a constant, see `challenge`.
        window: service.window[A::FAMILY & 1][offer.timestamps as usize],
        ttl: match service.ttl[A::FAMILY & 1] {
            0 => interface_ttl,
            ttl => ttl,
        },
        tos: tos(context),
        timestamp: answer.timestamp,
        flow_label: answer.flow_label,
    };
    let reply = syn_ack::syn_ack(
        (&segment.flow, context.addresses_sum),
        segment.sequence,
        offer.timestamp,
        &answer.cookie,
        &own,
    );
    put(&XdpPacket::of_xdp(frame), context.network_offset, &reply)?;
    if delta < 0 {
        adjust(frame, delta)?;
    }
    Some(())
}

/// The type of service of the reply (`tcp_v4_send_synack`, net/ipv4/tcp_ipv4.c; IPv6 likewise).
#[inline(always)]
fn tos<A: Replies + Tupled>(context: &PacketContext<'_, A>) -> u8 {
    let own = context.service.tos[A::FAMILY & 1];
    if context.config.flags & CONFIG_REFLECT_TOS == 0 {
        return own;
    }
    context.segment.tos & !ECN | own & ECN
}

#[inline(always)]
fn adjust(context: *mut xdp_md, delta: i64) -> Option<()> {
    // SAFETY: the context is the program's own; pointers into the packet are not used after this.
    (unsafe { bpf_xdp_adjust_tail(context, delta as i32) } == 0).then_some(())
}

/// Writes the reply over the frame.
#[inline(always)]
fn put<W: Copy>(frame: &XdpPacket, network: usize, reply: &SynAck<W>) -> Option<()> {
    frame.turn_round()?;
    frame.put(network, reply.ip)?;
    let tcp = network + size_of_val(&reply.ip);
    frame.put(tcp, reply.tcp)?;
    let options = tcp + syn_ack::TCP_WORDS * 4;
    // All at once where there is room, which what is over may take: it is cut off.
    if frame.put(options, reply.options).is_some() {
        return Some(());
    }
    for (index, word) in reply.options.into_iter().enumerate() {
        if index < reply.option_words {
            frame.put(options + index * 4, [word])?;
        }
    }
    Some(())
}
