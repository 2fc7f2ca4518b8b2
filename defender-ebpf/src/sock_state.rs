//! Looks at this host's sockets: listeners that come and go, handed-over connections that are complete, and, when the
//! controller walks through all of them, what the filter has to know.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::BtfTracePointContext};
use defender_common::{
    abi::{Config, EVENT_LISTEN_BEGAN, EVENT_LISTEN_ENDED, Event, Handoff},
    recent::{ESTABLISH_MS, What},
    wire::address::{Address, Flow, V4, V6},
};

use crate::{account, clock, config, filter, maps::EVENTS, recent};

const TCP_ESTABLISHED: i32 = 1;
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;
const AF_INET: u16 = 2;
/// `::ffff:0:0/96` as the third word of an address lies in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The beginning of `struct sock_common` (include/net/sock.h), as kernels with IPv6 and network namespaces have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct SockCommon {
    daddr: u32,
    rcv_saddr: u32,
    hash: u32,
    dport: u16,
    num: u16,
    family: u16,
    state: u8,
    bits: u8,
    bound_dev_if: i32,
    bind_node: [u64; 2],
    prot: u64,
    net: u64,
    v6_daddr: [u32; 4],
    v6_rcv_saddr: [u32; 4],
}

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[inline(always)]
pub(crate) fn changed(ctx: &BtfTracePointContext) {
    let socket: *const SockCommon = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    // A socket that a listener spawns leaves LISTEN as well, for SYN_RECV: only CLOSE is the listener's own end.
    let ended = old == TCP_LISTEN && new == TCP_CLOSE;
    if new != TCP_ESTABLISHED && new != TCP_LISTEN && !ended {
        return;
    }
    // SAFETY: the address is a socket's, and the helper checks it.
    let Ok(socket) = (unsafe { bpf_probe_read_kernel(socket) }) else { return };
    if new == TCP_LISTEN {
        tell(EVENT_LISTEN_BEGAN, socket.num);
    } else if ended {
        tell(EVENT_LISTEN_ENDED, socket.num);
    } else {
        established(&socket);
    }
}

#[inline(always)]
fn tell(kind: u32, port: u16) {
    // If the buffer is full the controller has events to wake up for anyway, and it looks by itself every second.
    let _ = EVENTS.output::<Event>(Event { kind, subject: port as u32, error: 0, reserved: 0 }, 0);
}

/// `bpf_iter_tcp`: the context of an iterator over TCP sockets (net/ipv4/tcp_ipv4.c).
#[repr(C)]
pub(crate) struct IterTcp {
    meta: *const c_void,
    socket: *const SockCommon,
    uid: u32,
}

/// One socket of a walk through all of them; null at its end.
#[inline(always)]
pub(crate) fn visited(ctx: *const IterTcp) {
    // SAFETY: a field of the program's own context.
    let socket = unsafe { (*ctx).socket };
    if socket.is_null() {
        return;
    }
    // SAFETY: the address is a socket's, and the helper checks it.
    let Ok(socket) = (unsafe { bpf_probe_read_kernel(socket) }) else { return };
    with_flow(&socket, &Note);
}

#[inline(always)]
fn established(socket: &SockCommon) {
    with_flow(socket, &Count);
}

/// What is done with a socket's connection, of either family.
trait Visit {
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config);
}

#[inline(always)]
fn with_flow(socket: &SockCommon, visit: &impl Visit) {
    let Some(config) = config::config() else { return };
    let (source_port, destination_port) = (u16::from_be(socket.dport), socket.num);
    let [_, _, third, _] = socket.v6_daddr;
    // A dual-stack socket's IPv4 connection has both; the wire had IPv4.
    if socket.family == AF_INET || third == MAPPED {
        let (source, destination) = (V4(socket.daddr), V4(socket.rcv_saddr));
        visit.visit(&Flow { source, destination, source_port, destination_port }, config);
    } else {
        let (source, destination) = (V6(socket.v6_daddr), V6(socket.v6_rcv_saddr));
        visit.visit(&Flow { source, destination, source_port, destination_port }, config);
    }
}

/// Notes it in the filter.
struct Note;

impl Visit for Note {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        filter::note(flow, config);
    }
}

/// Counts it as established if it was handed over.
struct Count;

impl Visit for Count {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        let now = clock::now_for_tracing();
        if recent::take(flow, config, What::Assigned, now, ESTABLISH_MS) {
            account::handoff(Handoff::Established, 0);
        }
    }
}
