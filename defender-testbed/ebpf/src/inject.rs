//! Sends prepared frames, byte for byte, in one batch: all of them are in the receiver's ring before its NAPI polls.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_store_bytes},
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};

use crate::abi::{INJECT_FRAMES, INJECT_MAX, INJECT_ROOM, InjectFrame};

#[map]
static INJECT: Array<InjectFrame> = Array::with_max_entries(INJECT_FRAMES as u32, 0);

/// Index of the next frame.
#[map]
static NEXT: Array<u32> = Array::with_max_entries(1, 0);

/// Sends the next prepared frame.
#[xdp]
fn inject(ctx: XdpContext) -> u32 {
    send_next(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn send_next(ctx: &XdpContext) -> Option<u32> {
    let frame = INJECT.get(take_index()?)?;
    let len = frame.len as usize;
    if len == 0 || len > INJECT_MAX {
        return None;
    }
    // SAFETY: the helper checks that `len` bytes fit the frame; the source is `INJECT_ROOM` long, which is more.
    let stored = unsafe {
        bpf_xdp_store_bytes(ctx.as_ptr().cast(), 0, frame.bytes.as_ptr().cast_mut().cast(), len as u32)
    };
    // SAFETY: the context is the one the kernel gave us; no pointer into the frame is used after this.
    let cut = unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), len as i32 - INJECT_ROOM as i32) };
    if stored != 0 || cut != 0 {
        return None;
    }
    // SAFETY: the helper takes plain numbers.
    Some(unsafe { bpf_redirect(frame.ifindex, 0) as u32 })
}

#[inline(always)]
fn take_index() -> Option<u32> {
    let next = NEXT.get_ptr_mut(0)?;
    // SAFETY: one thread at a time runs this program.
    let index = unsafe { *next };
    // SAFETY: as above.
    unsafe { *next = index + 1 };
    Some(index)
}
