//! The programs at the two ends of the link.
//!
//! The client end needs a program for one reason: what the server end sends with `XDP_TX` arrives only if this end has
//! one. It also counts the answers. At the server end stand the ceilings: the least a defence could possibly do; and a
//! tcx program of someone else.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, map, xdp},
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};

use crate::{
    abi::{FRAMES_V4, FRAMES_V6, SPOOFED_V4, SPOOFED_V6, counter},
    packet::{at, read_u16, read_u32},
};

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTO_TCP: u8 = 6;
const IP: usize = 14;
/// Bytes of a Linux client's SYN: IPv4 header, TCP header, options.
const LINUX_SYN: usize = 60;
const SYN: u8 = 0x02;
/// What lets the next tcx program decide.
const TCX_NEXT: i32 = -1;
const ACK: u8 = 0x10;

/// Which address of a packet to look at.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Source,
    Destination,
}

/// What a packet is, as far as the ends care.
struct Seen {
    spoofed: bool,
    /// TCP flags; 0 for what is not TCP.
    flags: u8,
    ipv6: bool,
}

/// Client end: counts and passes everything.
#[xdp]
fn pass(ctx: XdpContext) -> u32 {
    let _ = count_answer(&ctx);
    xdp_action::XDP_PASS
}

/// Client end during a flood: counts everything, and ends what goes to the spoofed ranges here, because nobody has
/// those addresses and letting the network stack find that out would cost more than the flood.
#[xdp]
fn absorb(ctx: XdpContext) -> u32 {
    if count_answer(&ctx) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Client end during a flood: the same, but what goes to clients made of frames passes, for they look at it.
#[xdp]
fn absorb_flood(ctx: XdpContext) -> u32 {
    if count_answer(&ctx) && is_for_frames(&ctx) != Some(true) {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

/// Whether a packet goes to the part of the spoofed ranges that clients made of frames use.
#[inline(always)]
fn is_for_frames(ctx: &XdpContext) -> Option<bool> {
    if read_u16(ctx, 12)? == ETHERTYPE_IPV4 {
        return Some(read_u32(ctx, IP + 16)? & FRAMES_V4.1 == FRAMES_V4.0);
    }
    let is_first = read_u32(ctx, IP + 24)? == FRAMES_V6[0];
    Some(is_first && read_u32(ctx, IP + 28)? == FRAMES_V6[1] && read_u32(ctx, IP + 32)? == FRAMES_V6[2])
}

/// Server end: drops what comes from the spoofed ranges. No defence can be cheaper than this.
#[xdp]
fn drop_range(ctx: XdpContext) -> u32 {
    count(counter::PACKETS);
    match look(&ctx, Side::Source) {
        Some(seen) if seen.spoofed => {
            count(counter::DROPPED);
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

/// Server end: sends SYNs from the spoofed ranges back with addresses swapped and nothing else done. No defence that
/// answers can be cheaper than this.
#[xdp]
fn swap_tx(ctx: XdpContext) -> u32 {
    count(counter::PACKETS);
    let Some(seen) = look(&ctx, Side::Source) else { return xdp_action::XDP_PASS };
    if !seen.spoofed || seen.flags & (SYN | ACK) != SYN {
        return xdp_action::XDP_PASS;
    }
    if swap(&ctx, seen.ipv6).is_none() {
        return xdp_action::XDP_PASS;
    }
    count(counter::SENT_BACK);
    xdp_action::XDP_TX
}

/// Server end: the same, and reads and writes the rest of the SYN once, as whoever checks it and answers in its place must.
#[xdp]
fn rewrite_tx(ctx: XdpContext) -> u32 {
    count(counter::PACKETS);
    let Some(seen) = look(&ctx, Side::Source) else { return xdp_action::XDP_PASS };
    if !seen.spoofed || seen.flags & (SYN | ACK) != SYN || seen.ipv6 {
        return xdp_action::XDP_PASS;
    }
    if rewrite(&ctx).is_none() || swap(&ctx, seen.ipv6).is_none() {
        return xdp_action::XDP_PASS;
    }
    count(counter::SENT_BACK);
    xdp_action::XDP_TX
}

/// Reads every half word of a Linux client's SYN behind the Ethernet header, and writes it again.
#[inline(always)]
fn rewrite(ctx: &XdpContext) -> Option<()> {
    let halves = at::<[u16; LINUX_SYN / 2]>(ctx, IP)?.cast::<u16>();
    for index in 0..LINUX_SYN / 2 {
        let half = halves.wrapping_add(index);
        // SAFETY: `at` checked that all of them lie inside the frame; frames start at an even address. Volatile, or the
        // compiler would leave out what changes nothing.
        let value = unsafe { half.read_volatile() };
        // SAFETY: as above.
        unsafe { half.write_volatile(value) };
    }
    Some(())
}

/// At tcx: counts, and leaves everything to the next program.
#[classifier]
fn watch(_ctx: TcContext) -> i32 {
    count(counter::PACKETS);
    TCX_NEXT
}

/// Counts what arrives at the client end; true if it is for the spoofed ranges.
#[inline(always)]
fn count_answer(ctx: &XdpContext) -> bool {
    count(counter::PACKETS);
    let Some(seen) = look(ctx, Side::Destination) else { return false };
    let syn_ack = seen.flags & (SYN | ACK) == SYN | ACK;
    match (seen.spoofed, syn_ack) {
        (true, true) => count(counter::SPOOFED_SYN_ACKS),
        (true, false) => count(counter::SPOOFED_OTHERS),
        (false, true) => count(counter::SYN_ACKS),
        (false, false) => {}
    }
    seen.spoofed
}

/// Reads addresses and flags of plain IPv4 and IPv6 frames; VLAN tags, options and extension headers are not for here.
#[inline(always)]
fn look(ctx: &XdpContext, side: Side) -> Option<Seen> {
    match read_u16(ctx, 12)? {
        ETHERTYPE_IPV4 => {
            let address = read_u32(ctx, IP + if side == Side::Source { 12 } else { 16 })?;
            let flags = flags(ctx, IP + 9, IP + 20)?;
            Some(Seen { spoofed: spoofed_v4(address), flags, ipv6: false })
        }
        ETHERTYPE_IPV6 => {
            let address = IP + if side == Side::Source { 8 } else { 24 };
            let spoofed = read_u32(ctx, address)?
                == u32::from(SPOOFED_V6[0]) << 16 | u32::from(SPOOFED_V6[1])
                && read_u16(ctx, address + 4)? == SPOOFED_V6[2];
            let flags = flags(ctx, IP + 6, IP + 40)?;
            Some(Seen { spoofed, flags, ipv6: true })
        }
        _ => None,
    }
}

#[inline(always)]
fn flags(ctx: &XdpContext, protocol: usize, tcp: usize) -> Option<u8> {
    if read_byte(ctx, protocol)? != PROTO_TCP {
        return Some(0);
    }
    read_byte(ctx, tcp + 13)
}

#[inline(always)]
fn read_byte(ctx: &XdpContext, offset: usize) -> Option<u8> {
    crate::packet::read::<u8>(ctx, offset)
}

#[inline(always)]
fn spoofed_v4(address: u32) -> bool {
    SPOOFED_V4.iter().any(|(network, mask)| address & mask == *network)
}

/// Swaps MAC and IP addresses. Sums stay true: they do not depend on the order.
#[inline(always)]
pub(crate) fn swap(ctx: &XdpContext, ipv6: bool) -> Option<()> {
    swap_fields::<[u16; 3]>(ctx, 0, 6)?;
    if ipv6 {
        swap_fields::<[u16; 8]>(ctx, IP + 8, IP + 24)
    } else {
        swap_fields::<[u16; 2]>(ctx, IP + 12, IP + 16)
    }
}

#[inline(always)]
fn swap_fields<T: Copy>(ctx: &XdpContext, a: usize, b: usize) -> Option<()> {
    let (a, b) = (at::<T>(ctx, a)?, at::<T>(ctx, b)?);
    // SAFETY: `at` checked that both fields lie inside the frame, and they do not overlap. Frames start at an even
    // address and the fields at even offsets, so words of 16 bits are aligned.
    unsafe { core::ptr::swap_nonoverlapping(a, b, 1) };
    Some(())
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU alone while the program runs.
        unsafe { *counter += 1 };
    }
}
