//! Turns a SYN into the SYN-ACK that challenges it, in place.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail};
use defender_common::{
    abi::KeySlot,
    cookie::{self, Cookie, Host, Proposal},
    profile,
    reply::{self, Own, Replies, SynAck},
    verdict::Reason,
    wire::options::Offer,
};

use crate::{
    config,
    packet::{XdpPacket, hidden},
    socket::Tupled,
    surroundings::{self, Around},
};

/// Answers the SYN at hand.
#[inline(always)]
pub(crate) fn challenge<A: Replies + Tupled>(around: &mut Around<'_, A>) -> Reason {
    let slot = around.config.key_current & 1;
    // The controller fills the keys before it attaches anything.
    let Some(key) = config::key(slot) else { return Reason::SynSuspended };
    let offer = around.offer();
    // Once for either kind of cookie: the compiler leaves out what only the other kind needs.
    let answered = if offer.timestamps {
        answer(around, &Offer { timestamps: true, ..offer }, slot, key)
    } else {
        answer(around, &Offer { timestamps: false, ..offer }, slot, key)
    };
    if answered.is_some() { Reason::SynChallenged } else { Reason::SynRewriteFailed }
}

/// Writes the SYN-ACK over the frame.
#[inline(always)]
fn answer<A: Replies + Tupled>(
    around: &mut Around<'_, A>,
    offer: &Offer,
    slot: u32,
    key: &KeySlot,
) -> Option<()> {
    let segment = around.segment;
    let host = surroundings::host::<A>(around.interface, around.service, slot);
    let ecn = offer.timestamps && around.ecn();
    let index = profile_index(A::FAMILY, offer, &host);
    let proposal = Proposal::new::<A>(offer, index, ecn, host);
    let context = around.packet.context;
    let delta =
        (around.network_offset + reply::bytes::<A>(&proposal.terms)) as i64 - around.packet.len() as i64;
    // A frame that is too short for the reply grows first; what is too long is cut off at the end.
    if delta > 0 {
        adjust(context, delta)?;
    }
    let cookie = proposal.cookie(&segment.flow, segment.sequence, slot, key);
    // Computed here and not while the reply is written: that takes fewer of the stack's bytes.
    let cookie = Cookie { isn: hidden(cookie.isn as usize) as u32, ..cookie };
    let offset = cookie::timestamp_offset(&segment.flow, around.hash, around.config.secret);
    let learnt_mss = around.service.mss[A::FAMILY & 1];
    let own = Own {
        mss: if learnt_mss != 0 && learnt_mss < host.mss { learnt_mss } else { host.mss },
        // Without a mask: in either copy of this function the flag is a constant, see `challenge`.
        window: around.service.window[A::FAMILY & 1][offer.timestamps as usize],
        ttl: if A::FAMILY == 0 { around.interface.ttl } else { around.interface.hop_limit },
        timestamp: cookie::timestamp(around.now(), offset as u32, cookie.timestamp_bits),
        flow_label: (offset >> 32) as u32,
    };
    let reply = reply::syn_ack(
        (&segment.flow, around.addresses_sum),
        segment.sequence,
        offer.timestamp,
        &cookie,
        &own,
    );
    put(&XdpPacket::of_xdp(context), around.network_offset, &reply)?;
    if delta < 0 {
        adjust(context, delta)?;
    }
    Some(())
}

#[inline(always)]
fn profile_index(family: usize, offer: &Offer, host: &Host) -> u8 {
    if offer.timestamps && offer.mss >= host.mss {
        // What most clients offer, without the call.
        return profile::INTERFACE_MSS;
    }
    let offered = (offer.mss as u64) << 16
        | (offer.window_scale as u64) << 8
        | (offer.timestamps as u64) << 1
        | offer.sack as u64;
    choose_profile(family as u64, offered, host.mss as u64, host.window_scale as u64) as u8
}

/// [`profile::index`] as a global function (see packet.rs): the choice is many branches, and the verifier would follow the
/// rest of the program from the end of each.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_profile(family: u64, offered: u64, mss: u64, window_scale: u64) -> u64 {
    let offer = Offer {
        mss: (offered >> 16) as u16,
        window_scale: (offered >> 8) as u8,
        timestamps: offered & 2 != 0,
        sack: offered & 1 != 0,
        ..Offer::NONE
    };
    profile::index(family as usize, &offer, mss as u16, window_scale as u8) as u64
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
    let options = tcp + reply::TCP_WORDS * 4;
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
