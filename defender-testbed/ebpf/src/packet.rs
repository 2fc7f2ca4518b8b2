//! Bounds-checked access to a frame.

use aya_ebpf::programs::XdpContext;

/// A pointer to a `T` that lies wholly inside the frame, `offset` bytes from its start.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// The `T` that lies `offset` bytes from the frame's start.
#[inline(always)]
pub(crate) fn read<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let value = at::<T>(ctx, offset)?;
    // SAFETY: `at` checked that the whole value lies inside the frame; the eBPF verifier checks it again.
    Some(unsafe { value.read_unaligned() })
}

/// The big-endian 16-bit word that lies `offset` bytes from the frame's start.
#[inline(always)]
pub(crate) fn read_u16(ctx: &XdpContext, offset: usize) -> Option<u16> {
    // Frames start at an even address and every field read here lies at an even offset.
    read::<[u8; 2]>(ctx, offset).map(u16::from_be_bytes)
}

/// The big-endian 32-bit word that lies `offset` bytes from the frame's start.
#[inline(always)]
pub(crate) fn read_u32(ctx: &XdpContext, offset: usize) -> Option<u32> {
    read::<[u8; 4]>(ctx, offset).map(u32::from_be_bytes)
}
