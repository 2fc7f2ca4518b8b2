//! The engine of `bpf_sk_assign_tcp_reqsk` (kernel 6.9): cookies of our own (`defender_common::cookie`), from which the kernel
//! makes a whole connection, with every option that was agreed on.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skc_to_tcp_sock, programs::TcContext};
use aya_log_ebpf::debug;
use defender_common::{
    abi::{Handoff, Interface, Service, kfunc::ASSIGN_REQSK_SENTINEL},
    cookie::{self, Cookie, Host, NegotiatedOptions, Proposal},
    profile,
    wire::{
        Packet,
        address::{Address, Flow},
        options::Offer,
        tcp::Segment,
    },
};

use super::{Answer, Proof};
use crate::{
    clock, config,
    context::PacketContext,
    packet::hidden,
    socket::{SocketRef, Tupled},
};

/// What a cookie with the current key can hold of an offer.
#[inline(always)]
pub(super) fn propose<A: Tupled>(context: &PacketContext<'_, A>, offer: &Offer) -> Option<Proposal> {
    let slot = context.config.key_current & 1;
    config::key(slot)?;
    let host = host::<A>(context.interface, context.service, slot);
    let ecn = offer.timestamps && context.ecn();
    let index = profile_index(A::FAMILY, offer, &host);
    Some(Proposal::new::<A>(offer, index, ecn, host))
}

/// Makes a cookie with the current key.
#[inline(always)]
pub(super) fn make<A: Tupled>(context: &mut PacketContext<'_, A>, proposal: Proposal) -> Answer {
    let slot = context.config.key_current & 1;
    let segment = context.segment;
    let cookie = proposal.cookie(&segment.flow, segment.sequence, slot, config::key_slot(slot));
    // Computed here and not while the SYN-ACK is written: that takes fewer of the stack's bytes.
    let cookie = Cookie { isn: hidden(cookie.isn as usize) as u32, ..cookie };
    let offset = cookie::timestamp_offset(&segment.flow, context.hash, context.config.secret);
    let timestamp = cookie::timestamp(context.now(), offset as u32, cookie.timestamp_bits);
    Answer { cookie, timestamp, flow_label: (offset >> 32) as u32 }
}

/// Checks a cookie with the key that it names.
#[inline(always)]
pub(super) fn check<A: Address>(
    packet: &impl Packet,
    segment: &Segment<A>,
    interface: &Interface,
    service: &Service,
) -> Option<Proof> {
    let slot = cookie::slot_of(segment.acknowledgement);
    let key = config::key(slot)?;
    let stamps = segment.options().timestamps(packet);
    let host = host::<A>(interface, service, slot);
    let echo = stamps.map(|(_, echo)| echo);
    let negotiated =
        cookie::check(&segment.flow, segment.sequence, segment.acknowledgement, echo, host, key)?;
    Some(Proof { negotiated, timestamp: stamps.map_or(0, |(theirs, _)| theirs) })
}

/// Assigns the packet at hand to its listener: TCP takes it for the ACK that completes a handshake.
#[inline(always)]
pub(super) fn assign<A: Tupled>(
    ctx: &TcContext,
    listener: &SocketRef,
    (flow, hash): (&Flow<A>, u64),
    proof: &Proof,
) -> Handoff {
    // SAFETY: the socket is held.
    let listener = unsafe { bpf_skc_to_tcp_sock(listener.as_ptr()) };
    if listener.is_null() {
        return Handoff::NoListener;
    }
    let stamps = (proof.timestamp, timestamp(flow, hash));
    // SAFETY: the listener is held, and this is a tc ingress program.
    let result = unsafe { assign_reqsk(ctx.skb.skb, listener.cast(), &proof.negotiated, stamps) };
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

/// What this host puts into a connection.
#[inline(always)]
fn host<A: Address>(interface: &Interface, service: &Service, slot: u32) -> Host {
    let slot = (slot & 1) as usize;
    let most = if A::FAMILY == 0 { interface.mss4 } else { interface.mss6 };
    let limit = service.mss[slot];
    Host {
        mss: if limit != 0 && limit < most { limit } else { most },
        window_scale: service.window_scale[slot],
    }
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

/// [`profile::index`] as a global function (see `packet.rs`): the choice is many branches, and the verifier would follow the
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

/// Our timestamp of the connection at this moment. The kernel goes on from it, and its first sample of the round trip is
/// the difference to the one echoed.
#[inline(always)]
fn timestamp<A: Tupled>(flow: &Flow<A>, hash: u64) -> u32 {
    let offset = cookie::timestamp_offset(flow, hash, config::config().secret);
    cookie::present_timestamp(clock::exact(), offset as u32)
}

/// `struct bpf_tcp_req_attrs` (include/net/tcp.h).
#[repr(C)]
struct Attributes {
    rcv_tsval: u32,
    rcv_tsecr: u32,
    mss: u16,
    rcv_wscale: u8,
    snd_wscale: u8,
    ecn_ok: u8,
    wscale_ok: u8,
    sack_ok: u8,
    tstamp_ok: u8,
    usec_ts_ok: u8,
    reserved: [u8; 3],
}

/// EINVAL, as the kernel returns it.
const INVALID: i64 = -22;

/// `bpf_sk_assign_tcp_reqsk`: makes the packet's acknowledgement complete a handshake with `listener` with these options;
/// `stamps` are the packet's timestamp and ours at this
/// moment (`rcv_tsecr`, of which the kernel makes the connection's timestamp offset). Returns 0 or a negative error; 0 means assigned, not that the listener has room.
///
/// The kernel refuses what its sysctls forbid now, though the SYN-ACK may have promised it while they did not. A peer goes on
/// without SACK, and most without timestamps; no peer does without the window scale.
///
/// # Safety
/// `listener` is a held `struct tcp_sock`, `skb` the context of a tc ingress program.
#[inline(always)]
unsafe fn assign_reqsk(
    skb: *mut __sk_buff,
    listener: *mut c_void,
    negotiated: &NegotiatedOptions,
    stamps: (u32, u32),
) -> i64 {
    let scales = negotiated.scales();
    let mut attributes = Attributes {
        rcv_tsval: stamps.0,
        rcv_tsecr: stamps.1,
        mss: negotiated.mss,
        rcv_wscale: if scales { negotiated.our_window_scale } else { 0 },
        snd_wscale: if scales { negotiated.window_scale } else { 0 },
        ecn_ok: negotiated.ecn as u8,
        wscale_ok: scales as u8,
        sack_ok: negotiated.sack as u8,
        tstamp_ok: negotiated.timestamps as u8,
        usec_ts_ok: 0,
        reserved: [0; 3],
    };
    // SAFETY: as the caller says.
    let mut result = unsafe { assign_as(skb, listener, &attributes) };
    if result == INVALID && attributes.sack_ok != 0 {
        attributes.sack_ok = 0;
        // SAFETY: as above.
        result = unsafe { assign_as(skb, listener, &attributes) };
    }
    if result == INVALID && attributes.tstamp_ok != 0 {
        (attributes.sack_ok, attributes.tstamp_ok) = (negotiated.sack as u8, 0);
        // SAFETY: as above.
        result = unsafe { assign_as(skb, listener, &attributes) };
        if result == INVALID && negotiated.sack {
            attributes.sack_ok = 0;
            // SAFETY: as above.
            result = unsafe { assign_as(skb, listener, &attributes) };
        }
    }
    result
}

/// The call itself.
///
/// # Safety
/// As for [`assign_reqsk`].
#[inline(always)]
unsafe fn assign_as(skb: *mut __sk_buff, listener: *mut c_void, attributes: &Attributes) -> i64 {
    let result: i64;
    // SAFETY: a call as the eBPF calling convention has it; the loader has made it one of this very function.
    unsafe {
        asm!(
            "call {function}",
            function = const ASSIGN_REQSK_SENTINEL,
            inlateout("r1") skb => _,
            inlateout("r2") listener => _,
            inlateout("r3") &raw const *attributes => _,
            inlateout("r4") size_of::<Attributes>() as u64 => _,
            lateout("r5") _,
            lateout("r0") result,
        );
    }
    // The function returns an int, whose upper half is not defined.
    i64::from(result as i32)
}
