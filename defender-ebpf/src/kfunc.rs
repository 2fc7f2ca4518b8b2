//! Kernel functions.
//!
//! rustc emits no BTF for a foreign function, so a call is written as an instruction with a sentinel for the function's
//! BTF id; the loader puts the id in (see `defender_common::abi::kfunc`).

use core::{arch::asm, ffi::c_void};

use aya_ebpf::bindings::__sk_buff;
use defender_common::{abi::kfunc::ASSIGN_REQSK_SENTINEL, cookie::Terms};

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

/// `bpf_sk_assign_tcp_reqsk`: makes the packet's acknowledgement complete a handshake with `listener` on these terms;
/// `stamps` are the packet's timestamp and echo. Returns 0 or a negative error; 0 means assigned, not that the listener has room.
///
/// # Safety
/// `listener` is a held `struct tcp_sock`, `skb` the context of a tc ingress program.
#[inline(always)]
pub(crate) unsafe fn assign_reqsk(
    skb: *mut __sk_buff,
    listener: *mut c_void,
    terms: &Terms,
    stamps: (u32, u32),
) -> i64 {
    let scales = terms.scales();
    let attributes = Attributes {
        rcv_tsval: stamps.0,
        rcv_tsecr: stamps.1,
        mss: terms.mss,
        rcv_wscale: if scales { terms.our_window_scale } else { 0 },
        snd_wscale: if scales { terms.window_scale } else { 0 },
        ecn_ok: terms.ecn as u8,
        wscale_ok: scales as u8,
        sack_ok: terms.sack as u8,
        tstamp_ok: terms.timestamps as u8,
        usec_ts_ok: 0,
        reserved: [0; 3],
    };
    let result: i64;
    // SAFETY: a call as the eBPF calling convention has it; the loader has made it one of this very function.
    unsafe {
        asm!(
            "call {function}",
            function = const ASSIGN_REQSK_SENTINEL,
            inlateout("r1") skb => _,
            inlateout("r2") listener => _,
            inlateout("r3") &raw const attributes => _,
            inlateout("r4") size_of::<Attributes>() as u64 => _,
            lateout("r5") _,
            lateout("r0") result,
        );
    }
    // The function returns an int, whose upper half is not defined.
    i64::from(result as i32)
}
