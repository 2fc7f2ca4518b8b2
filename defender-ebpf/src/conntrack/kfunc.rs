//! Kernel functions of conntrack.
//!
//! rustc emits no BTF for foreign functions. So a call is written as an instruction with a sentinel for the
//! function's BTF id, which the loader replaces (`defender_common::abi::kfunc`).

use core::{arch::asm, ffi::c_void};

use aya_ebpf::bindings::__sk_buff;
use defender_common::{
    abi::kfunc::{CT_CHANGE_STATUS, CT_CHANGE_TIMEOUT, CT_RELEASE, SKB_CT_LOOKUP},
    wire::PROTOCOL_TCP,
};

use crate::socket::{Tuple, Tupled};

/// `struct bpf_ct_opts` (net/netfilter/nf_conntrack_bpf.c) as in kernels before 6.10. Later ones accept it
/// as well.
#[repr(C)]
struct LookupOptions {
    netns_id: i32,
    error: i32,
    l4proto: u8,
    dir: u8,
    reserved: [u8; 2],
}

/// `BPF_F_CURRENT_NETNS`: look in the network namespace of the packet's device.
const CURRENT_NETNS: i32 = -1;

/// A conntrack entry, released on drop.
pub(crate) struct ConntrackEntry(*mut c_void);

/// `bpf_skb_ct_lookup`: the entry for the connection of the packet at a tc program, in either direction.
#[inline(always)]
pub(crate) fn lookup_entry<A: Tupled>(skb: *mut __sk_buff, tuple: Tuple<A>) -> Option<ConntrackEntry> {
    let mut options =
        LookupOptions { netns_id: CURRENT_NETNS, error: 0, l4proto: PROTOCOL_TCP, dir: 0, reserved: [0; 2] };
    let entry: *mut c_void;
    // SAFETY: a call by the eBPF calling convention; the loader has made it one of this very function. The
    // tuple's layout and size identify its family.
    unsafe {
        asm!(
            "call {function}",
            function = const SKB_CT_LOOKUP.sentinel,
            inlateout("r1") skb => _,
            inlateout("r2") &raw const tuple => _,
            inlateout("r3") size_of::<Tuple<A>>() as u64 => _,
            inlateout("r4") &raw mut options => _,
            inlateout("r5") size_of::<LookupOptions>() as u64 => _,
            lateout("r0") entry,
        );
    }
    if entry.is_null() { None } else { Some(ConntrackEntry(entry)) }
}

/// Bits of an entry's status (include/uapi/linux/netfilter/nf_conntrack_common.h): a reply was seen, the
/// handshake completed, and lookups find the entry.
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;

impl ConntrackEntry {
    /// Expires it: lookups no longer find it.
    #[inline(always)]
    pub(crate) fn expire(&self) {
        self.change_timeout(0);
    }

    /// Puts it into the state after a handshake that conntrack has seen. `timeout` is the timeout of such
    /// connections in milliseconds, or 0 if unknown.
    #[inline(always)]
    pub(crate) fn confirm_reply(&self, timeout: u32) {
        self.change_status(CONFIRMED | SEEN_REPLY | ASSURED);
        if timeout != 0 {
            self.change_timeout(timeout);
        }
    }

    /// `bpf_ct_change_timeout`: `timeout` is in milliseconds from now.
    #[inline(always)]
    fn change_timeout(&self, timeout: u32) {
        // SAFETY: as in `lookup_entry`; the entry is held.
        unsafe {
            asm!(
                "call {function}",
                function = const CT_CHANGE_TIMEOUT.sentinel,
                inlateout("r1") self.0 => _,
                inlateout("r2") timeout as u64 => _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                lateout("r0") _,
            );
        }
    }

    /// `bpf_ct_change_status`: adds these bits. Those that must not change stay as they are.
    #[inline(always)]
    fn change_status(&self, status: u32) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "call {function}",
                function = const CT_CHANGE_STATUS.sentinel,
                inlateout("r1") self.0 => _,
                inlateout("r2") status as u64 => _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                lateout("r0") _,
            );
        }
    }
}

impl Drop for ConntrackEntry {
    /// `bpf_ct_release`.
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as above; it was looked up with a reference and is released once.
        unsafe {
            asm!(
                "call {function}",
                function = const CT_RELEASE.sentinel,
                inlateout("r1") self.0 => _,
                lateout("r2") _,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                lateout("r0") _,
            );
        }
    }
}
