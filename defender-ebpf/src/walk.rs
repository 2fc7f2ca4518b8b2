//! Walks through all of this host's TCP sockets, one a call.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::seq_file,
    helpers::{bpf_probe_read_kernel, generated::bpf_seq_write},
};
use defender_common::{
    abi::{Config, Listed},
    filter::Noted,
    tcp_state::State,
    wire::address::{Address, Flow},
};

use crate::{
    config, filter, flow, service,
    sock_common::{SockCommon, Visit, segments},
};

/// The kernel's number of TIME_WAIT.
const TCP_TIME_WAIT: u8 = 6;
/// That of a handshake that has no socket yet.
const TCP_NEW_SYN_RECV: u8 = 12;

/// `bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
}

/// `bpf_iter__tcp`: the context of an iterator over TCP sockets (net/ipv4/tcp_ipv4.c).
#[repr(C)]
pub(crate) struct IterTcp {
    meta: *const IterMeta,
    socket: *const SockCommon,
    uid: u32,
}

/// Notes a socket in the filter, and confirms its connection in the flow table.
#[inline(always)]
pub(crate) fn confirm(ctx: *const IterTcp) {
    if let Some((socket, state, segments)) = current(ctx) {
        socket.visit(&Confirm { state, segments });
    }
}

/// Lists a socket if it is a service's connection.
#[inline(always)]
pub(crate) fn list(ctx: *const IterTcp) {
    if let Some((socket, Some(state), segments)) = current(ctx) {
        // SAFETY: a field of the program's own context.
        let meta = unsafe { (*ctx).meta };
        // SAFETY: the kernel gave it for this call.
        let seq = unsafe { (*meta).seq };
        socket.visit(&List { state, segments, seq });
    }
}

/// The socket of this call, its state, if that is one of a connection, and how many segments it has counted, if it does;
/// none at the end of the walk.
#[inline(always)]
fn current(ctx: *const IterTcp) -> Option<(SockCommon, Option<State>, Option<u32>)> {
    // SAFETY: a field of the program's own context.
    let address = unsafe { (*ctx).socket };
    if address.is_null() {
        return None;
    }
    let socket = SockCommon::read(address)?;
    let (number, segments) = match socket.state {
        TCP_TIME_WAIT => (substate(address), None),
        TCP_NEW_SYN_RECV => (TCP_NEW_SYN_RECV, None),
        number => (number, segments(address)),
    };
    Some((socket, State::from_kernel(number), segments))
}

/// The state that a socket without a process stands for: TIME_WAIT or FIN_WAIT2.
#[inline(always)]
fn substate(address: *const SockCommon) -> u8 {
    let offset = config::config().substate_offset;
    if offset == 0 {
        return TCP_TIME_WAIT;
    }
    let at = address.cast::<u8>().wrapping_add(offset as usize & 0xfff);
    // SAFETY: the socket is one in TIME_WAIT, and the helper checks the address.
    unsafe { bpf_probe_read_kernel(at) }.unwrap_or(TCP_TIME_WAIT)
}

struct Confirm {
    state: Option<State>,
    segments: Option<u32>,
}

impl Visit for Confirm {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        let quiet = self.state == Some(State::Established);
        let noted = if quiet { Noted::Quiet } else { Noted::Followed };
        filter::note(flow.mix(&config.table_keys), config, noted);
        if let Some(state) = self.state
            && let Some(found) = service::find(flow.destination, flow.destination_port)
        {
            flow::confirm(flow, config, found.id, state, self.segments);
        }
    }
}

struct List {
    state: State,
    segments: Option<u32>,
    seq: *mut seq_file,
}

impl Visit for List {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        let Some(found) = service::find(flow.destination, flow.destination_port) else { return };
        let mut line = Listed {
            remote: flow.source.octets(),
            local: flow.destination.octets(),
            remote_port: flow.source_port,
            local_port: flow.destination_port,
            service: found.id,
            state: self.state as u8,
            ..Listed::default()
        };
        flow::describe(flow, config, self.segments, &mut line);
        // SAFETY: the line is initialised and of that size. If the buffer is full the kernel calls for this socket again.
        unsafe { bpf_seq_write(self.seq, (&raw const line).cast::<c_void>(), size_of::<Listed>() as u32) };
    }
}
