//! The time.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use defender_common::{clock::milliseconds, load::Time};

/// Monotonic milliseconds, wrapping. Its grain is a tick; the exact clock costs seven times as much.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes nothing and has no preconditions.
    milliseconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// The same clock, read exactly: tracing programs may not call the coarse one.
#[inline(always)]
pub(crate) fn now_for_tracing() -> u32 {
    // SAFETY: as above.
    milliseconds(unsafe { bpf_ktime_get_ns() })
}

/// Units of 2³⁰ ns since the machine started: for ages, which outlast the milliseconds.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    // SAFETY: as above.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
}

/// Both, read at once.
#[inline(always)]
pub(crate) fn time() -> Time {
    // SAFETY: as above.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    Time { ms: milliseconds(now), second: (now >> 30) as u32 }
}

/// The same, for tracing programs.
#[inline(always)]
pub(crate) fn epoch_for_tracing() -> u32 {
    // SAFETY: as above.
    (unsafe { bpf_ktime_get_ns() } >> 30) as u32
}
