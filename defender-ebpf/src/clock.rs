//! The time.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use defender_common::load::Time;

/// The time. Its grain is a tick; the exact clock costs seven times as much.
#[inline(always)]
pub(crate) fn time() -> Time {
    // SAFETY: the helper takes nothing and has no preconditions.
    Time::at(unsafe { bpf_ktime_get_coarse_ns() })
}

/// The same clock, read exactly: tracing programs may not call the coarse one.
#[inline(always)]
pub(crate) fn time_for_tracing() -> Time {
    // SAFETY: as above.
    Time::at(unsafe { bpf_ktime_get_ns() })
}

/// Monotonic milliseconds by the exact clock.
#[inline(always)]
pub(crate) fn exact() -> u32 {
    time_for_tracing().ms
}

/// Monotonic milliseconds, wrapping.
#[inline(always)]
pub(crate) fn now() -> u32 {
    time().ms
}

/// Units of 2³⁰ ns since the machine started: for ages, which outlast the milliseconds.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    time().second
}
