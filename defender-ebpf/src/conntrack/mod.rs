//! How conntrack (netfilter's connection tracking, used by stateful firewall rules) sees connections that
//! are handed over.
//!
//! It has not seen the handshake, and confirms a new entry only when its packet reaches the socket. Hence:
//!
//! * An entry of an earlier connection that is still there is expired ([`SegmentRole::HandedOver`]).
//! * Segments of one NAPI poll would each get an entry, and all but one would clash. They are redirected to
//!   ingress again and return behind the first ([`SegmentRole::Waits`], [`SegmentRole::Again`]). So are all
//!   others meanwhile ([`is_awaited`]).
//! * The SYN-ACK was the connection's reply. But conntrack would wait for one, and classify the next segment
//!   as new once more. So a copy of the first segment is redirected behind it ([`SegmentRole::Echo`]). If
//!   there is a socket by then, the firewall has accepted the segment, and the entry is marked as replied.
//!
//! A separate program does all this. The hand-off calls it where the controller has installed it, on hosts
//! with conntrack.

mod kfunc;

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::generated::{bpf_clone_redirect, bpf_redirect, bpf_xdp_adjust_meta},
    macros::map,
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};
use defender_common::{
    field,
    handoff_metadata::{HandoffMetadata, SENT_ROUND},
    shared::Shared,
    verdict::Reason,
    wire::{
        Ip, Packet as _,
        ethernet::{self, Frame, Network},
        ipv4, ipv6,
    },
};

use crate::{
    clock, config,
    maps::CONNTRACK,
    packet::SkbPacket,
    socket::{SocketRef, Tuple, Tupled},
    tcx,
};

/// How conntrack must treat a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum SegmentRole {
    /// This segment handed the connection over.
    HandedOver = 1,
    /// An earlier segment handed the connection over, and some segments before this one have not reached
    /// the kernel yet.
    Waits = 2,
    /// This segment has been redirected.
    Again = 3,
    /// This is the copy of the segment that handed the connection over.
    Echo = 4,
}

impl SegmentRole {
    const ALL: [Self; 4] = [Self::HandedOver, Self::Waits, Self::Again, Self::Echo];
}

// Values of a packet's `tc_index` while it is redirected. Nothing else uses that field on ingress.
const AGAIN: u32 = 0xdef1;
const ECHO: u32 = 0xdef2;

/// Whether a frame at generic XDP was redirected before; a program in the driver never sees a packet twice.
/// The frame's metadata are still in place, but the context no longer points to them. To read them, every
/// frame gets metadata.
#[inline(always)]
pub(crate) fn has_returned(ctx: &XdpContext) -> bool {
    // SAFETY: the context is the program's own; no pointer into the packet is in use.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<HandoffMetadata>() as i32)) } != 0 {
        return false;
    }
    let Some(magic) = metadata(ctx.metadata(), ctx.data()) else { return false };
    // SAFETY: the bytes are metadata, which the verifier checks again.
    let returned = unsafe { *magic } == SENT_ROUND;
    // SAFETY: as above.
    unsafe { *magic = 0 };
    returned
}

/// The metadata, if they hold a [`HandoffMetadata`].
#[inline(always)]
fn metadata(begin: usize, end: usize) -> Option<*mut u32> {
    (begin + size_of::<HandoffMetadata>() <= end).then_some(begin as *mut u32)
}

/// How to treat a packet that was redirected.
#[inline(always)]
pub(crate) fn returning(ctx: &TcContext) -> Option<SegmentRole> {
    match tc_index(ctx) {
        AGAIN => Some(SegmentRole::Again),
        ECHO => Some(SegmentRole::Echo),
        _ => None,
    }
}

/// Calls the program. Returns only if it is not installed. Then a copy is dropped, and other packets
/// continue.
#[inline(always)]
pub(crate) fn call(ctx: &TcContext, role: SegmentRole) -> i32 {
    let goes = matches!(role, SegmentRole::HandedOver | SegmentRole::Waits);
    if goes {
        count_redirected();
    } else {
        comes_back();
    }
    set_role(ctx, role);
    // SAFETY: both programs have the same context, and nothing is held that would have to be released.
    unsafe { CONNTRACK.tail_call(ctx, 0) };
    if goes {
        comes_back();
    }
    match role {
        SegmentRole::Echo => tcx::DROP,
        SegmentRole::Again => {
            set_tc_index(ctx, 0);
            tcx::NEXT
        }
        _ => tcx::NEXT,
    }
}

/// Packets that this CPU has redirected and that have not returned yet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Redirected {
    packets: u32,
    /// When the last of them was redirected, in milliseconds.
    at: u32,
}

#[map]
static ROUND: PerCpuArray<Redirected> = PerCpuArray::with_max_entries(1, 0);

/// How long to wait for a packet: no softirq lasts as long. Some packets are dropped, or return on another
/// CPU.
const AWAITED_MS: u32 = 20;

/// Whether packets are awaited that must not be overtaken.
#[inline(always)]
pub(crate) fn is_awaited() -> bool {
    let Some(redirected) = redirected() else { return false };
    if field!(redirected.packets).get() == 0 {
        return false;
    }
    let awaited = clock::now().wrapping_sub(field!(redirected.at).get()) < AWAITED_MS;
    if !awaited {
        field!(redirected.packets).set(0);
    }
    awaited
}

#[inline(always)]
fn count_redirected() {
    if let Some(redirected) = redirected() {
        field!(redirected.packets).set(field!(redirected.packets).get() + 1);
        field!(redirected.at).set(clock::now());
    }
}

#[inline(always)]
fn comes_back() {
    if let Some(redirected) = redirected() {
        field!(redirected.packets).set(field!(redirected.packets).get().saturating_sub(1));
    }
}

#[inline(always)]
fn redirected() -> Option<&'static Shared<Redirected>> {
    // SAFETY: a map's value; every reference to it is of this kind.
    ROUND.get_ptr_mut(0).map(|redirected| unsafe { Shared::at(redirected) })
}

/// The program.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> i32 {
    let Some(role) = role(ctx) else { return tcx::NEXT };
    if role == SegmentRole::Waits {
        return redirect_to_ingress(ctx);
    }
    if role == SegmentRole::Again {
        set_tc_index(ctx, 0);
    }
    let packet = SkbPacket::of_skb(ctx.skb.skb);
    let verdict = match ethernet::parse(&packet) {
        Ok(Frame { network: Network::V4, network_offset }) => {
            take(ctx, role, &packet, ipv4::parse(&packet, network_offset))
        }
        Ok(Frame { network: Network::V6, network_offset }) => {
            take(ctx, role, &packet, ipv6::parse(&packet, network_offset))
        }
        _ => None,
    };
    if role == SegmentRole::HandedOver {
        // Changes the packet, so it comes last.
        redirect_copy(ctx);
    }
    if role == SegmentRole::Echo { tcx::DROP } else { verdict.unwrap_or(tcx::NEXT) }
}

/// `None` if the packet could not be read.
#[inline(always)]
fn take<A: Tupled>(
    ctx: &TcContext,
    role: SegmentRole,
    packet: &SkbPacket,
    ip: Result<Ip<A>, Reason>,
) -> Option<i32> {
    let ip = ip.ok()?;
    let [ports] = packet.words(ip.transport)?;
    let tuple = || Tuple { source: ip.source, destination: ip.destination, ports };
    let entry = || kfunc::lookup_entry(ctx.skb.skb, tuple());
    match role {
        SegmentRole::HandedOver => entry()?.expire(),
        SegmentRole::Echo if SocketRef::find(ctx.skb.skb.cast(), tuple())?.is_established() => {
            entry()?.confirm_reply(config::config().conntrack_established_ms);
        }
        // The segment before was not accepted. The listener would answer this one with a reset, since it
        // has no connection for it.
        SegmentRole::Again if SocketRef::find(ctx.skb.skb.cast(), tuple())?.listens() => {
            return Some(tcx::DROP);
        }
        _ => {}
    }
    Some(tcx::NEXT)
}

/// Lets a packet arrive again on the same device, after those of the present NAPI poll.
#[inline(always)]
fn redirect_to_ingress(ctx: &TcContext) -> i32 {
    if !sign(ctx, AGAIN) {
        return tcx::NEXT;
    }
    // SAFETY: it takes numbers.
    unsafe { bpf_redirect(ifindex(ctx), BPF_F_INGRESS as u64) as i32 }
}

/// The same for a copy of it.
#[inline(always)]
fn redirect_copy(ctx: &TcContext) {
    if !sign(ctx, ECHO) {
        return;
    }
    // Without memory for a copy, conntrack classifies the next segment as new. SAFETY: the context is the
    // program's own; pointers into the packet are not used after this.
    unsafe { bpf_clone_redirect(ctx.skb.skb, ifindex(ctx), BPF_F_INGRESS as u64) };
    set_tc_index(ctx, 0);
    sign_metadata(ctx, 0);
}

/// Marks a packet, unless its field is in use. A kernel without CONFIG_NET_SCHED keeps no mark.
#[inline(always)]
fn sign(ctx: &TcContext, value: u32) -> bool {
    if tc_index(ctx) != 0 {
        return false;
    }
    set_tc_index(ctx, value);
    if tc_index(ctx) != value {
        return false;
    }
    sign_metadata(ctx, SENT_ROUND);
    true
}

/// For generic XDP, which sees no other mark.
#[inline(always)]
fn sign_metadata(ctx: &TcContext, value: u32) {
    // SAFETY: a field of the program's own context.
    let begin = unsafe { (*ctx.skb.skb).data_meta } as usize;
    if let Some(magic) = metadata(begin, ctx.data()) {
        // SAFETY: the bytes are metadata, which the verifier checks again.
        unsafe { *magic = value };
    }
}

// Fields of the context. Each is read and written separately, at an offset that the verifier can see.

#[inline(always)]
fn tc_index(ctx: &TcContext) -> u32 {
    // SAFETY: a field of the program's own context.
    let field = unsafe { &raw const (*ctx.skb.skb).tc_index };
    // SAFETY: as above.
    unsafe { field.read_volatile() }
}

#[inline(always)]
fn set_tc_index(ctx: &TcContext, value: u32) {
    // SAFETY: as above.
    let field = unsafe { &raw mut (*ctx.skb.skb).tc_index };
    // SAFETY: as above.
    unsafe { field.write_volatile(value) };
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
fn set_role(ctx: &TcContext, role: SegmentRole) {
    // SAFETY: as above; nothing else expects these words to survive between two programs.
    let field = unsafe { &raw mut (*ctx.skb.skb).cb[0] };
    // SAFETY: as above.
    unsafe { field.write_volatile(role as u32) };
}

#[inline(always)]
fn role(ctx: &TcContext) -> Option<SegmentRole> {
    // SAFETY: as above.
    let field = unsafe { &raw const (*ctx.skb.skb).cb[0] };
    // SAFETY: as above.
    let number = unsafe { field.read_volatile() };
    SegmentRole::ALL.into_iter().find(|role| *role as u32 == number)
}
