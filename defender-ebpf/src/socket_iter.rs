//! Iterators over all TCP sockets of this host, one socket per call.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::seq_file,
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_seq_write, bpf_skc_to_tcp_sock},
    },
};
use defender_common::{
    abi::{Config, Listed, Plain},
    presence_filter::Noted,
    queue::Queue,
    tcp_state::State,
    wire::address::{Address, Flow},
};

use crate::{
    config, flow, listener, load, presence_filter, service,
    sock_common::{SockCommon, Visit, segments},
    socket::queue_of,
};

/// The kernel's number of TIME_WAIT.
const TCP_TIME_WAIT: u8 = 6;
/// The kernel's number of LISTEN.
const TCP_LISTEN: u8 = 10;
/// The kernel's number of a handshake that has no socket yet.
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

/// Adds a socket to the presence filter, and confirms its connection in the flow table.
#[inline(always)]
pub(crate) fn confirm(ctx: *const IterTcp) {
    let Some((socket, state, segments)) = current(ctx) else { return };
    if socket.state == TCP_LISTEN {
        if let Some(queue) = listening(ctx) {
            socket.visit(&NoteQueue { queue });
        }
    } else {
        socket.visit(&Confirm { state, segments });
    }
}

/// The queues of this call's listener.
#[inline(always)]
fn listening(ctx: *const IterTcp) -> Option<Queue> {
    // SAFETY: a field of the program's own context.
    let listener = unsafe { (*ctx).socket };
    if listener.is_null() {
        return None;
    }
    // SAFETY: the kernel holds the socket for this call.
    queue_of(unsafe { bpf_skc_to_tcp_sock(listener.cast_mut().cast()) }.cast())
}

/// Lists a socket if it is a connection to a service.
#[inline(always)]
pub(crate) fn list(ctx: *const IterTcp) {
    if let Some((socket, Some(state), segments)) = current(ctx) {
        // SAFETY: a field of the program's own context.
        let meta = unsafe { (*ctx).meta };
        // SAFETY: the kernel gave it for this call.
        let seq = unsafe { (*meta).seq };
        socket.visit(&ListConnection { state, segments, seq });
    }
}

/// Writes the socket options of a listener. For the sockets after the listeners, writes a record of zeros.
#[inline(always)]
pub(crate) fn listeners(ctx: *const IterTcp) {
    // SAFETY: a field of the program's own context.
    let address = unsafe { (*ctx).socket };
    if address.is_null() {
        return;
    }
    let Some(socket) = SockCommon::read(address) else { return };
    let options = if socket.state == TCP_LISTEN { listener::options(address) } else { None };
    // SAFETY: a field of the program's own context.
    let meta = unsafe { (*ctx).meta };
    // SAFETY: the kernel gave it for this call.
    let seq = unsafe { (*meta).seq };
    write(seq, &options.unwrap_or_default());
}

/// Adds a record to the iterator's output. If the buffer is full, the kernel calls again for this socket.
#[inline(always)]
fn write<T: Plain>(seq: *mut seq_file, line: &T) {
    // SAFETY: the line is initialised and of that size.
    unsafe { bpf_seq_write(seq, (&raw const *line).cast::<c_void>(), size_of::<T>() as u32) };
}

/// The socket of this call, its state (if it is a connection's), and how many segments it has counted (if
/// it does). `None` at the end of the iteration.
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

/// The actual state of a socket without a process: TIME_WAIT or FIN_WAIT2.
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

/// A listener. Its queues are checked even while no SYN arrives.
struct NoteQueue {
    queue: Queue,
}

impl Visit for NoteQueue {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, _: &Config) {
        if let Some(found) = service::find(flow.destination, flow.destination_port) {
            load::note_queue(found.id, self.queue);
        }
    }
}

struct Confirm {
    state: Option<State>,
    segments: Option<u32>,
}

impl Visit for Confirm {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        let established = self.state == Some(State::Established);
        let noted = if established { Noted::Established } else { Noted::Tracked };
        presence_filter::note(flow.hash(&config.table_keys), config, noted);
        if let Some(state) = self.state
            && let Some(found) = service::find(flow.destination, flow.destination_port)
        {
            flow::confirm(flow, config, found.id, state, self.segments);
        }
    }
}

struct ListConnection {
    state: State,
    segments: Option<u32>,
    seq: *mut seq_file,
}

impl Visit for ListConnection {
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
        write(self.seq, &line);
    }
}
