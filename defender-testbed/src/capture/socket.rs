//! Packet sockets.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Captured;

const BUFFER: libc::c_int = 16 << 20;
const ON: libc::c_int = 1;
const MAC_ADDRESSES: usize = 12;
const TPID_DEFAULT: u16 = 0x8100;

/// Where the TCP checksum is, in bytes from the TCP header.
const TCP_CHECKSUM: u16 = 16;
/// "The checksum is still to be computed", in the header in front of a frame.
const NEEDS_CHECKSUM: u8 = 1;

#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket that receives every frame of the interface.
    pub(super) fn receiver(ifindex: u32, outgoing: bool) -> io::Result<Self> {
        Self::filtered_receiver(ifindex, outgoing, &[])
    }

    /// The same, of the frames that a filter lets through; an empty one lets all through.
    pub(super) fn filtered_receiver(
        ifindex: u32,
        outgoing: bool,
        filter: &[libc::sock_filter],
    ) -> io::Result<Self> {
        // Bound before it may receive: a new packet socket would begin with frames of every interface.
        let socket = Self::new()?;
        if !filter.is_empty() {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            socket.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        }
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &ON)?;
        if !outgoing {
            socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &ON)?;
        }
        socket.bind(ifindex, libc::ETH_P_ALL as u16)?;
        Ok(socket)
    }

    /// A socket that sends frames, each behind a header that says what is to be done about its checksum.
    pub(super) fn sender(ifindex: u32) -> io::Result<Self> {
        let socket = Self::new()?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &ON)?;
        socket.bind(ifindex, 0)?;
        Ok(socket)
    }

    /// Sends a frame; with `tcp`, its TCP checksum is pending.
    pub(super) fn send(&self, frame: &[u8], tcp: Option<usize>) -> io::Result<()> {
        let mut bytes = match tcp {
            None => vec![0; 10],
            Some(tcp) => pending_header(tcp),
        };
        bytes.extend(frame);
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame, cut off at `room` bytes; nothing when the time is over.
    pub(super) fn receive(&self, room: usize, timeout: Duration) -> io::Result<Option<Captured>> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // Rounded up: waiting for less than a millisecond must not become not waiting.
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        if poll(&mut polled, timeout)? == 0 {
            return Ok(None);
        }
        self.receive_now(room).map(Some)
    }

    fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn bind(&self, ifindex: u32, protocol: u16) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is valid for its length.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) };
        if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the value is valid for its length.
        let result = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const *value).cast(), length)
        };
        if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive_now(&self, room: usize) -> io::Result<Captured> {
        let mut bytes = vec![0; room];
        let mut control = [0_u64; 16];
        let mut from = libc::sockaddr_ll {
            sll_family: 0,
            sll_protocol: 0,
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let mut data = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: the structure is made of integers and pointers, for which zero is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in the message is valid for the length beside it.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        bytes.truncate(length as usize);
        let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
        let auxiliary = auxiliary(&message);
        if let Some(auxiliary) = &auxiliary {
            restore_tag(&mut bytes, auxiliary);
        }
        let checksum_pending =
            auxiliary.is_some_and(|auxiliary| auxiliary.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0);
        Ok(Captured { bytes, outgoing, checksum_pending })
    }
}

/// What the kernel says about a frame besides its bytes.
fn auxiliary(message: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: the kernel filled in the message, and its control buffer is still alive.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: not null, then it points into the control buffer.
    let header = unsafe { header.as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: the header is one of a control message.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a control message of this type holds this structure, maybe not aligned.
    Some(unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() })
}

/// The kernel takes the outermost VLAN tag out of a frame; this puts it back.
fn restore_tag(bytes: &mut Vec<u8>, auxiliary: &libc::tpacket_auxdata) {
    if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID == 0 || bytes.len() < MAC_ADDRESSES {
        return;
    }
    let known = auxiliary.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let tpid = if known { auxiliary.tp_vlan_tpid } else { TPID_DEFAULT };
    let tag = tpid.to_be_bytes().into_iter().chain(auxiliary.tp_vlan_tci.to_be_bytes());
    bytes.splice(MAC_ADDRESSES..MAC_ADDRESSES, tag);
}

/// The header in front of a frame whose TCP checksum is pending: flags, no segmentation, where the sum starts, where it
/// goes.
fn pending_header(tcp: usize) -> Vec<u8> {
    let mut header = vec![NEEDS_CHECKSUM, 0, 0, 0, 0, 0];
    header.extend((tcp as u16).to_ne_bytes());
    header.extend(TCP_CHECKSUM.to_ne_bytes());
    header
}
