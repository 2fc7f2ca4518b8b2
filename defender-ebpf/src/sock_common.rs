//! What every kind of TCP socket begins with.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use defender_common::{
    abi::Config,
    wire::{
        PROTOCOL_TCP,
        address::{Address, Flow, V4, V6},
    },
};

use crate::config;

const AF_INET: u16 = 2;
/// `::ffff:0:0/96` as the third word of an address lies in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

/// The beginning of `struct sock_common` (include/net/sock.h), as kernels with IPv6 and network namespaces have it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SockCommon {
    daddr: u32,
    rcv_saddr: u32,
    hash: u32,
    dport: u16,
    pub(crate) num: u16,
    family: u16,
    pub(crate) state: u8,
    bits: u8,
    bound_dev_if: i32,
    bind_node: [u64; 2],
    prot: u64,
    net: u64,
    v6_daddr: [u32; 4],
    v6_rcv_saddr: [u32; 4],
}

impl SockCommon {
    /// A copy of a socket's.
    #[inline(always)]
    pub(crate) fn read(socket: *const Self) -> Option<Self> {
        // SAFETY: the address is a socket's, and the helper checks it.
        unsafe { bpf_probe_read_kernel(socket) }.ok()
    }

    /// A copy of a closed socket's: the port of its own is gone from there, but not from elsewhere.
    #[inline(always)]
    pub(crate) fn read_closed(socket: *const Self) -> Option<Self> {
        let common = Self::read(socket)?;
        let offset = config::config().source_port_offset as usize;
        let at = socket.cast::<u8>().wrapping_add(offset).cast::<u16>();
        // SAFETY: as above.
        let port = unsafe { bpf_probe_read_kernel(at) }.ok()?;
        Some(Self { num: u16::from_be(port), ..common })
    }

    /// Whether it is a socket of the network namespace that is defended: tracepoints hear of every one.
    #[inline(always)]
    pub(crate) fn is_ours(&self) -> bool {
        let config = config::config();
        let at = (self.net as *const u8).wrapping_add(config.namespace_offset as usize).cast::<u32>();
        // SAFETY: the address is within the socket's namespace, and the helper checks it.
        let number = unsafe { bpf_probe_read_kernel(at) };
        config.namespace == 0 || number == Ok(config.namespace)
    }

    /// Whether `socket` is TCP's: the tracepoint hears of other protocols, and of Multipath TCP's sockets above it.
    #[inline(always)]
    pub(crate) fn is_tcp(socket: *const Self) -> bool {
        let config = config::config();
        let at = socket.cast::<u8>().wrapping_add(config.protocol_offset as usize).cast::<u16>();
        // SAFETY: the address is within a `struct sock`, and the helper checks it.
        let protocol = unsafe { bpf_probe_read_kernel(at) };
        protocol == Ok(PROTOCOL_TCP as u16)
    }

    /// Tells `visit` of the socket's connection, as the other side names it.
    #[inline(always)]
    pub(crate) fn visit(&self, visit: &impl Visit) {
        let config = config::config();
        let (source_port, destination_port) = (u16::from_be(self.dport), self.num);
        let [first, second, third, _] = self.v6_daddr;
        // A dual-stack socket's IPv4 connection has both; the wire had IPv4.
        if self.family == AF_INET || first == 0 && second == 0 && third == MAPPED {
            let (source, destination) = (V4(self.daddr), V4(self.rcv_saddr));
            visit.visit(&Flow { source, destination, source_port, destination_port }, config);
        } else {
            let (source, destination) = (V6(self.v6_daddr), V6(self.v6_rcv_saddr));
            visit.visit(&Flow { source, destination, source_port, destination_port }, config);
        }
    }
}

/// How many segments a TCP socket that is no mere request and not in TIME_WAIT has counted, both ways.
#[inline(always)]
pub(crate) fn segments(socket: *const SockCommon) -> Option<u32> {
    let config = config::config();
    let word = |offset: u16| {
        let at = socket.cast::<u8>().wrapping_add(offset as usize).cast::<u32>();
        // SAFETY: the address is within a `struct tcp_sock`, and the helper checks it.
        unsafe { bpf_probe_read_kernel(at) }.ok()
    };
    Some(word(config.segments_in_offset)?.wrapping_add(word(config.segments_out_offset)?))
}

/// What is done with a socket's connection, of either family.
pub(crate) trait Visit {
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config);
}
