//! The kernel's socket table, as lookups see it for a connection.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple, xdp_md},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_sock},
};
use defender_common::{
    abi::member,
    decide::Socket,
    queue::{Accept, Queue},
    wire::{
        Network, Packet,
        address::{Flow, V4, V6},
        ipv6,
    },
};

use crate::packet::{self, MAX_HEADER, XdpPacket};

/// The state of a listener (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;
/// The state of an established connection.
const TCP_ESTABLISHED: u32 = 1;
/// Look in the network namespace of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;

/// The tuple of a lookup: addresses, then both ports in one word, in memory order (`struct
/// bpf_sock_tuple`).
#[repr(C)]
pub(crate) struct Tuple<A> {
    pub(crate) source: A,
    pub(crate) destination: A,
    pub(crate) ports: u32,
}

/// An address family that sockets can be looked up for. Both have the tuple's layout.
pub(crate) trait Tupled: Network {
    /// See [`look`].
    fn xdp_socket(ctx: *mut xdp_md, flow: &Flow<Self>, offsets: u64) -> u64;
    /// See [`packet::flaw`].
    fn xdp_flaw(ctx: *mut xdp_md, network: u64, mac: u64) -> u64;
}

impl Tupled for V4 {
    #[inline(always)]
    fn xdp_socket(ctx: *mut xdp_md, flow: &Flow<Self>, _: u64) -> u64 {
        let addresses = flow.source.0 as u64 | (flow.destination.0 as u64) << 32;
        xdp_socket4(ctx, addresses, flow.ports().to_be() as u64)
    }

    #[inline(always)]
    fn xdp_flaw(ctx: *mut xdp_md, network: u64, mac: u64) -> u64 {
        packet::xdp_flaw4(ctx, network, mac)
    }
}

impl Tupled for V6 {
    #[inline(always)]
    fn xdp_socket(ctx: *mut xdp_md, _: &Flow<Self>, offsets: u64) -> u64 {
        xdp_socket6(ctx, offsets)
    }

    #[inline(always)]
    fn xdp_flaw(ctx: *mut xdp_md, network: u64, mac: u64) -> u64 {
        packet::xdp_flaw6(ctx, network, mac)
    }
}

/// A socket, released on drop.
pub(crate) struct SocketRef(*mut bpf_sock);

impl SocketRef {
    /// The socket that would receive a packet of `flow`. `ctx` is the program's context.
    #[inline(always)]
    pub(crate) fn lookup<A: Tupled>(ctx: *mut c_void, flow: &Flow<A>) -> Option<Self> {
        Self::find(
            ctx,
            Tuple { source: flow.source, destination: flow.destination, ports: flow.ports().to_be() },
        )
    }

    /// The same, for a tuple.
    #[inline(always)]
    pub(crate) fn find<A: Tupled>(ctx: *mut c_void, mut tuple: Tuple<A>) -> Option<Self> {
        let tuple_ptr: *mut bpf_sock_tuple = (&raw mut tuple).cast();
        // SAFETY: the tuple's layout and size identify its family.
        let socket =
            unsafe { bpf_skc_lookup_tcp(ctx, tuple_ptr, size_of::<Tuple<A>>() as u32, CURRENT_NETNS, 0) };
        if socket.is_null() { None } else { Some(Self(socket)) }
    }

    /// Whether it is a listener.
    #[inline(always)]
    pub(crate) fn listens(&self) -> bool {
        // SAFETY: the socket is held, and `state` is a field that every kind of socket has.
        unsafe { (*self.0).state == TCP_LISTEN }
    }

    /// Whether it is an established connection.
    #[inline(always)]
    pub(crate) fn is_established(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).state == TCP_ESTABLISHED }
    }

    /// A listener's queues.
    #[inline(always)]
    pub(crate) fn queue(&self) -> Option<Queue> {
        // SAFETY: the socket is held; it is a TCP socket, not a request.
        queue_of(unsafe { bpf_skc_to_tcp_sock(self.as_ptr()) }.cast())
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl Drop for SocketRef {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: it was looked up with a reference and is released once.
        unsafe { bpf_sk_release(self.as_ptr()) };
    }
}

/// A member of a kernel structure behind a typed pointer. The number is a placeholder, which the loader
/// replaces by the member's offset.
macro_rules! member {
    ($structure:expr, $number:path) => {{
        let value: u64;
        // SAFETY: the verifier knows the structure, and that this is a member of it.
        unsafe {
            asm!(
                "{value} = *(u32 *)({structure} + {member})",
                value = lateout(reg) value,
                structure = in(reg) $structure,
                member = const $number,
                options(readonly, nostack, preserves_flags),
            );
        }
        value as u32
    }};
}

/// The queues of a listener, which is a `struct tcp_sock`. `None` if the pointer is null.
#[inline(always)]
pub(crate) fn queue_of(listener: *const c_void) -> Option<Queue> {
    if listener.is_null() {
        return None;
    }
    Some(Queue {
        half_open: member!(listener, member::QLEN),
        young: member!(listener, member::YOUNG),
        accept: Accept::of(
            member!(listener, member::ACK_BACKLOG),
            member!(listener, member::MAX_ACK_BACKLOG),
        ),
    })
}

/// The socket table's answer for a connection: one of the kinds, and a listener's packed queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looked(pub(crate) u64);

const KIND: u64 = 3;
const NOTHING: u64 = 1;
const LISTENER: u64 = 2;
const CONNECTION: u64 = 3;

impl Looked {
    /// Not looked up.
    pub(crate) const NOT: Self = Self(0);

    #[inline(always)]
    pub(crate) fn socket(self) -> Socket {
        match self.0 & KIND {
            NOTHING => Socket::Nothing,
            LISTENER => Socket::Listener,
            _ => Socket::Connection,
        }
    }

    /// The queues of the listener that would accept the connection.
    #[inline(always)]
    pub(crate) fn queue(self) -> Queue {
        Queue::unpack(self.0)
    }

    /// The same, if there is only a listener.
    #[inline(always)]
    pub(crate) fn listener(self) -> Option<Queue> {
        (self.0 & KIND == LISTENER).then(|| self.queue())
    }
}

/// Looks up the connection of a segment to a service. `offsets` holds the offset of the network header and,
/// from bit 16, that of the TCP header.
#[inline(always)]
pub(crate) fn look<A: Tupled>(ctx: *mut xdp_md, flow: &Flow<A>, offsets: u64) -> Looked {
    Looked(A::xdp_socket(ctx, flow, offsets))
}

// Global functions, since tuples take stack space.

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
    match SocketRef::find(ctx.cast(), tuple) {
        None => NOTHING,
        Some(socket) if socket.listens() => LISTENER | socket.queue().map_or(0, Queue::pack),
        Some(_) => CONNECTION,
    }
}
