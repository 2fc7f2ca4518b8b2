//! Clients with options that must be set before they connect.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use defender_testbed::netns::Namespace;
use nix::sys::socket::{SockaddrStorage, bind, connect as begin, setsockopt, sockopt};

use crate::harness::PATIENCE;

/// What is done to a client's socket before it connects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before<'a> {
    /// Where it connects from; the port may be shared with a listener.
    pub(crate) from: Option<SocketAddr>,
    /// It speaks MPTCP.
    pub(crate) mptcp: bool,
    /// It connects with the first write (TCP Fast Open).
    pub(crate) fast_open: bool,
    /// It signs what it sends (TCP-MD5).
    pub(crate) key: Option<&'a [u8]>,
}

/// Connects a blocking socket in the namespace.
pub(crate) fn connect(namespace: &Namespace, before: &Before<'_>, to: SocketAddr) -> Result<TcpStream> {
    let stream = namespace.run(|| {
        let socket = new(to, before.mptcp)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &timeout())?;
        if let Some(from) = before.from {
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            setsockopt(&socket, sockopt::ReusePort, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        }
        if before.fast_open {
            set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1)?;
        }
        if let Some(key) = before.key {
            sign(&socket, to, key)?;
        }
        begin(socket.as_raw_fd(), &SockaddrStorage::from(to)).context("cannot connect")?;
        Ok(TcpStream::from(socket))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Lets a listener take connections with their first data (TCP Fast Open).
pub(crate) fn accept_fast_open(listener: impl AsFd) -> Result<()> {
    Ok(set(listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &16)?)
}

/// Makes a socket sign what it sends to `peer`, and refuse what is not signed so.
pub(crate) fn sign(socket: impl AsFd, peer: SocketAddr, key: &[u8]) -> Result<()> {
    let mut order = Md5Signature {
        address: [0; 128],
        flags: 0,
        prefix: 0,
        key_length: key.len() as u16,
        ifindex: 0,
        key: [0; 80],
    };
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    order.address[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    match peer {
        SocketAddr::V4(peer) => order.address[4..8].copy_from_slice(&peer.ip().octets()),
        SocketAddr::V6(peer) => order.address[8..24].copy_from_slice(&peer.ip().octets()),
    }
    order.key[..key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &order).context("this kernel has no TCP-MD5")
}

/// `struct tcp_md5sig` (include/uapi/linux/tcp.h).
#[repr(C)]
struct Md5Signature {
    address: [u8; 128],
    flags: u8,
    prefix: u8,
    key_length: u16,
    ifindex: i32,
    key: [u8; 80],
}

fn timeout() -> libc::timeval {
    libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 }
}

fn new(address: SocketAddr, mptcp: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let protocol = if mptcp { libc::IPPROTO_MPTCP } else { libc::IPPROTO_TCP };
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value is valid for its length.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), length) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
