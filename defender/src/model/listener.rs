//! A listening socket, as the kernel lists it.

use std::net::IpAddr;

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// A TCP socket in the state LISTEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The socket's family; that of `address` may be IPv4 where this is IPv6.
    pub family: Family,
    /// The address it is bound to; unspecified for a wildcard. An IPv4-mapped one is given as IPv4.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// An IPv6 socket that does not take IPv4: `IPV6_V6ONLY`, or bound to an IPv6 address.
    pub v6only: bool,
    /// Index of the device it is bound to (`SO_BINDTODEVICE`, a VRF, or a link-local scope); 0: none.
    pub device: u32,
    /// The receive buffer that its connections start with, in bytes, as `getsockopt(SO_RCVBUF)` gives it.
    pub receive_buffer: u32,
    /// How many connections may wait for `accept`.
    pub backlog: u32,
    /// How many do.
    pub accept_queue: u32,
    /// It listens for MPTCP: the kernel takes no hand-offs for it (`bpf_sk_assign_tcp_reqsk` → EINVAL).
    pub mptcp: bool,
    /// The user it belongs to.
    pub uid: u32,
    /// The socket's inode, as in `/proc/PID/fd`.
    pub inode: u32,
    /// The kernel's number of the socket (`SO_COOKIE`).
    pub cookie: u64,
}

impl Listener {
    /// Whether IPv4 connections reach it.
    pub fn accepts_v4(&self) -> bool {
        match self.family {
            Family::V4 => true,
            Family::V6 => !self.v6only && (self.address.is_ipv4() || self.address.is_unspecified()),
        }
    }

    /// Whether IPv6 connections reach it.
    pub fn accepts_v6(&self) -> bool {
        self.address.is_ipv6()
    }
}
