//! What the kernel's socket table has for a connection.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple, xdp_md},
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_sk_release, bpf_skc_lookup_tcp},
    },
    macros::map,
    maps::PerCpuArray,
};
use defender_common::{
    abi::Config,
    decide::Socket,
    wire::{
        Packet,
        address::{Address, Flow, V4, V6},
        ipv6,
    },
};

use crate::packet::{MAX_HEADER, XdpPacket};

/// The state of a listener (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;
/// Look in the network namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;

/// The tuple of a look-up: addresses, then both ports in one word, in memory order (`struct bpf_sock_tuple`).
#[repr(C)]
struct Tuple<A> {
    source: A,
    destination: A,
    ports: u32,
}

/// An address family that sockets can be looked up for: both have the tuple's layout.
pub(crate) trait Tupled: Address {
    /// See [`state`].
    fn xdp_socket(ctx: *mut xdp_md, flow: &Flow<Self>, offsets: u64) -> u64;
}

impl Tupled for V4 {
    #[inline(always)]
    fn xdp_socket(ctx: *mut xdp_md, flow: &Flow<Self>, _: u64) -> u64 {
        let addresses = flow.source.0 as u64 | (flow.destination.0 as u64) << 32;
        xdp_socket4(ctx, addresses, flow.ports().to_be() as u64)
    }
}

impl Tupled for V6 {
    #[inline(always)]
    fn xdp_socket(ctx: *mut xdp_md, _: &Flow<Self>, offsets: u64) -> u64 {
        xdp_socket6(ctx, offsets)
    }
}

/// See [`Held::address`].
#[map]
static ADDRESS: PerCpuArray<usize> = PerCpuArray::with_max_entries(1, 0);

/// A socket that is released when it goes.
pub(crate) struct Held(*mut bpf_sock);

impl Held {
    /// The socket that would receive a packet of `flow`; `ctx` is the program's context.
    #[inline(always)]
    pub(crate) fn lookup<A: Tupled>(ctx: *mut c_void, flow: &Flow<A>) -> Option<Self> {
        Self::find(
            ctx,
            Tuple { source: flow.source, destination: flow.destination, ports: flow.ports().to_be() },
        )
    }

    #[inline(always)]
    fn find<A: Tupled>(ctx: *mut c_void, mut tuple: Tuple<A>) -> Option<Self> {
        let tuple_ptr: *mut bpf_sock_tuple = (&raw mut tuple).cast();
        // SAFETY: the tuple has the layout and the size that name its family.
        let socket =
            unsafe { bpf_skc_lookup_tcp(ctx, tuple_ptr, size_of::<Tuple<A>>() as u32, CURRENT_NETNS, 0) };
        if socket.is_null() { None } else { Some(Self(socket)) }
    }

    /// Whether it listens.
    #[inline(always)]
    pub(crate) fn listens(&self) -> bool {
        // SAFETY: the socket is held, and `state` is a field that every kind of socket has.
        unsafe { (*self.0).state == TCP_LISTEN }
    }

    /// Whether a listener's accept queue is full (`sk_acceptq_is_full`, include/net/sock.h).
    #[inline(always)]
    pub(crate) fn is_full(&self, config: &Config) -> bool {
        if config.ack_backlog_offset == 0 {
            return false;
        }
        let Some(address) = self.address() else { return false };
        let word = |offset: u16| {
            let at = address + offset as usize;
            // SAFETY: the socket is held, and the helper checks the address.
            unsafe { bpf_probe_read_kernel(at as *const u32) }.unwrap_or_default()
        };
        word(config.ack_backlog_offset) > word(config.max_ack_backlog_offset)
    }

    /// Where it is. The verifier allows no arithmetic on a socket's pointer, but any on a number; a map makes it one.
    #[inline(always)]
    fn address(&self) -> Option<usize> {
        let number = ADDRESS.get_ptr_mut(0)?;
        // SAFETY: this CPU's own value; nothing else uses it while the program runs. Volatile, so that it is read back.
        unsafe { number.write_volatile(self.0 as usize) };
        // SAFETY: as above.
        Some(unsafe { number.read_volatile() })
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it was looked up with a reference and is released once.
        unsafe { bpf_sk_release(self.as_ptr()) };
    }
}

/// What the socket table says of the connection of a segment to a service. `offsets` are those of the network header and,
/// from bit 16, of the TCP header.
#[inline(always)]
pub(crate) fn state<A: Tupled>(ctx: *mut xdp_md, flow: &Flow<A>, offsets: u64) -> Socket {
    match A::xdp_socket(ctx, flow, offsets) {
        NOTHING => Socket::Nothing,
        LISTENER => Socket::Listener,
        _ => Socket::Connection,
    }
}

// Global functions: tuples take room on the stack. They return one of these.

const NOTHING: u64 = 0;
const LISTENER: u64 = 1;
const CONNECTION: u64 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_socket4(ctx: *mut xdp_md, addresses: u64, ports: u64) -> u64 {
    let (source, destination) = (V4(addresses as u32), V4((addresses >> 32) as u32));
    kind(ctx, Tuple { source, destination, ports: ports as u32 })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdp_socket6(ctx: *mut xdp_md, offsets: u64) -> u64 {
    let packet = XdpPacket::of_xdp(ctx);
    let network = offsets as usize & 31;
    let Some((source, destination)) = ipv6::addresses(&packet, network) else { return NOTHING };
    let Some([ports]) = packet.words((offsets >> 16) as usize & MAX_HEADER) else { return NOTHING };
    kind(ctx, Tuple { source, destination, ports })
}

#[inline(always)]
fn kind<A: Tupled>(ctx: *mut xdp_md, tuple: Tuple<A>) -> u64 {
    match Held::find(ctx.cast(), tuple) {
        None => NOTHING,
        Some(socket) if socket.listens() => LISTENER,
        Some(_) => CONNECTION,
    }
}
