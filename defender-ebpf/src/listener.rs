//! Socket options of a listener, read from the socket.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use defender_common::abi::{ListenerOffsets, ListenerOptions};

use crate::sock_common::SockCommon;

/// Where the kernel has it: put in as the programs are loaded.
#[unsafe(no_mangle)]
static LISTENER_OFFSETS: ListenerOffsets = ListenerOffsets {
    cookie: 0,
    receive_buffer: 0,
    user_locks: 0,
    ttl: 0,
    tos: 0,
    ipv6: 0,
    hop_limit: 0,
    traffic_class: 0,
    mss: 0,
    window_clamp: 0,
    known: 0,
};

/// The socket options of the listener at `socket`.
#[inline(always)]
pub(crate) fn options(socket: *const SockCommon) -> Option<ListenerOptions> {
    // SAFETY: a constant; volatile, because it is another one by the time the program runs.
    let at = unsafe { (&raw const LISTENER_OFFSETS).read_volatile() };
    if at.known == 0 {
        return None;
    }
    let socket = socket as usize;
    let ipv6: usize = read(socket, at.ipv6)?;
    let (hop_limit, traffic_class) = if ipv6 == 0 {
        (-1, 0)
    } else {
        (read::<i16>(ipv6, at.hop_limit)?, read::<u8>(ipv6, at.traffic_class)?)
    };
    Some(ListenerOptions {
        cookie: read(socket, at.cookie)?,
        receive_buffer: read(socket, at.receive_buffer)?,
        window_clamp: read(socket, at.window_clamp)?,
        mss: read(socket, at.mss)?,
        ttl: [hops(read(socket, at.ttl)?), hops(hop_limit)],
        tos: [read(socket, at.tos)?, traffic_class],
        user_locks: read(socket, at.user_locks)?,
        listens: 1,
    })
}

/// Hops as the kernel has them, where -1 stands for the default.
#[inline(always)]
fn hops(kernel: i16) -> u8 {
    if kernel > 0 { kernel as u8 } else { 0 }
}

#[inline(always)]
fn read<T>(structure: usize, offset: u16) -> Option<T> {
    let at = structure.wrapping_add(offset as usize) as *const T;
    // SAFETY: the address is within a structure of the kernel's, and the helper checks it.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}
