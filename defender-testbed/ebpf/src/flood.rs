//! The flood source. It runs as a test run with live frames: the kernel calls it once per frame, and it writes the whole
//! frame and redirects it out of an interface.
//!
//! Frames are recycled and may hold what the other side made of them, therefore every byte is written each time.
//! Whatever the caller does, the program stops sending after its number of frames and its time.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_tail},
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};

use crate::{
    abi::{FLOOD_FRAME_ROOM, FloodState},
    packet::at,
};

#[map]
static FLOOD: Array<FloodState> = Array::with_max_entries(1, 0);

/// Where the fields of a frame are, in bytes from its start.
struct Layout {
    ip_checksum: Option<usize>,
    tcp: usize,
}

const V4: Layout = Layout { ip_checksum: Some(24), tcp: 34 };
const V6: Layout = Layout { ip_checksum: None, tcp: 54 };
const V4_SOURCE: usize = 26;
/// The 80 bits behind the /48.
const V6_SOURCE: usize = 28;

/// How often the end of the flood is looked for when there is no pace, in frames.
const CLOCK_EVERY: u64 = 256;

/// A debt to the clock beyond this many bursts is forgiven: catching up at full speed would be another test, and a veth's
/// ring holds 256 frames.
const MOST_BURSTS_BEHIND: u64 = 4;

type Frame = [u64; FLOOD_FRAME_ROOM / 8];

/// Sends one IPv4 frame of the flood.
#[xdp]
fn flood_v4(ctx: XdpContext) -> u32 {
    let Some(state) = due() else { return xdp_action::XDP_DROP };
    let Some(frame) = at::<Frame>(&ctx, 0) else { return xdp_action::XDP_ABORTED };
    copy(frame, &state.template);
    let random = next_random(state);
    let source = random as u32 & state.source_mask;
    patch_u32(frame, V4_SOURCE, read_u32(frame, V4_SOURCE) | source);
    let sums = [state.ip_sum + halves(source), state.tcp_sum + halves(source)];
    randomise_tcp(state, frame, &V4, sums, (random >> 32) as u32);
    send(&ctx, state)
}

/// Sends one IPv6 frame of the flood.
#[xdp]
fn flood_v6(ctx: XdpContext) -> u32 {
    let Some(state) = due() else { return xdp_action::XDP_DROP };
    let Some(frame) = at::<Frame>(&ctx, 0) else { return xdp_action::XDP_ABORTED };
    copy(frame, &state.template);
    let random = next_random(state);
    let more = next_random(state);
    let first = random as u32 & state.source_mask;
    patch_u32(frame, V6_SOURCE, first);
    patch_u32(frame, V6_SOURCE + 4, more as u32);
    patch_u16(frame, V6_SOURCE + 8, (more >> 32) as u16);
    let source = halves(first) + halves(more as u32) + u32::from((more >> 32) as u16);
    randomise_tcp(state, frame, &V6, [0, state.tcp_sum + source], (random >> 32) as u32);
    send(&ctx, state)
}

/// The flood's state if a frame is due now.
#[inline(always)]
fn due() -> Option<&'static mut FloodState> {
    let state = FLOOD.get_ptr_mut(0)?;
    // SAFETY: one thread runs this program, and the other side only reads; a torn read there is a number that is late.
    let state = unsafe { &mut *state };
    if may_send(state) {
        Some(state)
    } else {
        state.idle += 1;
        None
    }
}

#[inline(always)]
fn may_send(state: &mut FloodState) -> bool {
    if state.ended_ns != 0 {
        return false;
    }
    if state.sent < state.allowed {
        return true;
    }
    let now = now();
    if state.started_ns == 0 {
        state.started_ns = now;
    }
    let elapsed = now - state.started_ns;
    if elapsed >= state.max_ns || state.sent >= state.max_frames {
        state.ended_ns = now;
        return false;
    }
    allow_more(state, elapsed)
}

/// Lets the next frames go, without another look at the clock; false if it is too early.
#[inline(always)]
fn allow_more(state: &mut FloodState, elapsed: u64) -> bool {
    let mut more = CLOCK_EVERY;
    if state.pace != 0 {
        let owed = ((elapsed * state.pace) >> 32).saturating_sub(state.sent + state.forgiven);
        if owed < state.burst {
            return false;
        }
        state.forgiven += owed.saturating_sub(state.burst * MOST_BURSTS_BEHIND);
        more = state.burst;
    }
    state.allowed = (state.sent + more).min(state.max_frames);
    true
}

/// Fills in ports, numbers, stamp and sums.
#[inline(always)]
fn randomise_tcp(state: &mut FloodState, frame: *mut Frame, layout: &Layout, sums: [u32; 2], random: u32) {
    let [ip_sum, mut tcp_sum] = sums;
    let numbers = next_random(state);
    // Never below 1024, and never the port 0.
    let port = random as u16 | u16::from_ne_bytes([4, 0]);
    let seq = numbers as u32 & state.seq_mask;
    let ack = (numbers >> 32) as u32 & state.ack_mask;
    patch_u16(frame, layout.tcp, port);
    patch_u32(frame, layout.tcp + 4, seq);
    patch_u32(frame, layout.tcp + 8, ack);
    tcp_sum += u32::from(port) + halves(seq) + halves(ack);
    if state.stamp_mask != 0 {
        let stamp = next_random(state) as u32 & state.stamp_mask;
        patch_u32(frame, layout.tcp + 28, stamp);
        tcp_sum += halves(stamp);
    }
    patch_u16(frame, layout.tcp + 16, !fold(tcp_sum));
    if let Some(ip_checksum) = layout.ip_checksum {
        patch_u16(frame, ip_checksum, !fold(ip_sum));
    }
}

/// Cuts the frame to its length and sends it.
#[inline(always)]
fn send(ctx: &XdpContext, state: &mut FloodState) -> u32 {
    let surplus = state.len as i32 - FLOOD_FRAME_ROOM as i32;
    // SAFETY: the context is the one the kernel gave us; no pointer into the frame is used after this.
    if unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), surplus) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    state.sent += 1;
    // SAFETY: the helper takes plain numbers.
    unsafe { bpf_redirect(state.ifindex, 0) as u32 }
}

#[inline(always)]
fn copy(frame: *mut Frame, template: &Frame) {
    // SAFETY: `at` checked that the whole array lies inside the frame. Live frames begin at a multiple of eight.
    unsafe { frame.write(*template) };
}

#[inline(always)]
fn patch_u16(frame: *mut Frame, offset: usize, value: u16) {
    // SAFETY: the offsets are constants, even, and below the frame's size.
    let field = unsafe { frame.cast::<u8>().add(offset) }.cast::<u16>();
    // SAFETY: as above.
    unsafe { field.write(value) };
}

#[inline(always)]
fn patch_u32(frame: *mut Frame, offset: usize, value: u32) {
    let [a, b, c, d] = value.to_ne_bytes();
    patch_u16(frame, offset, u16::from_ne_bytes([a, b]));
    patch_u16(frame, offset + 2, u16::from_ne_bytes([c, d]));
}

#[inline(always)]
fn read_u32(frame: *mut Frame, offset: usize) -> u32 {
    // SAFETY: the offsets are constants, even, and below the frame's size.
    let field = unsafe { frame.cast::<u8>().add(offset) }.cast::<[u16; 2]>();
    // SAFETY: as above.
    let [first, second] = unsafe { field.read() };
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Sum of the two 16-bit words of a word in network byte order.
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// xorshift64*: cheap, and good enough to look like strangers.
#[inline(always)]
fn next_random(state: &mut FloodState) -> u64 {
    let mut x = state.random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    state.random = x;
    x.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no conditions.
    unsafe { bpf_ktime_get_ns() }
}
