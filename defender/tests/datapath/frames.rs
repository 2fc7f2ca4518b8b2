//! Frames that rows begin with.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use defender_testbed::{
    frame::{TcpFrame, TcpOption, flag, timestamp_options},
    topology::{SERVER_V4, SERVER_V6},
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{
    expected::{self, NegotiatedOptions},
    world::{DUAL, World},
};

/// Client ISN of every SYN here.
pub(super) const ISN: u32 = 0xfedc_ba98;
/// What the Linux layout's timestamp is.
pub(super) const STAMP: u32 = 0x1234_5678;

/// What is agreed with a Linux client over IPv4.
pub(super) const LINUX4: NegotiatedOptions =
    NegotiatedOptions { index: 7, mss: 1460, scale: Some(7), sack: true, stamp: Some(STAMP), ecn: false };
/// Over IPv6.
pub(super) const LINUX6: NegotiatedOptions = NegotiatedOptions { mss: 1440, ..LINUX4 };
/// What is agreed with a Windows client over IPv4.
pub(super) const WINDOWS4: NegotiatedOptions =
    NegotiatedOptions { index: 4, mss: 1460, scale: Some(8), sack: true, stamp: None, ecn: false };
/// Over IPv6.
pub(super) const WINDOWS6: NegotiatedOptions = NegotiatedOptions { mss: 1440, ..WINDOWS4 };

/// A client nobody was before, in this thread: rows do not meet what others left in the datapath's tables.
pub(super) fn client4() -> SocketAddr {
    let number = next();
    SocketAddr::new(Ipv4Addr::from(0xc612_0001 + number).into(), 20_000 + number as u16)
}

/// Likewise.
pub(super) fn client6() -> SocketAddr {
    let number = next();
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1 + number as u16);
    SocketAddr::new(address.into(), 20_000 + number as u16)
}

fn next() -> u32 {
    thread_local!(static NEXT: Cell<u32> = const { Cell::new(0) });
    NEXT.with(|next| next.replace(next.get() + 1))
}

/// An address with a port.
pub(super) fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// An address given as text.
pub(super) fn address(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// The server's address of the client's family.
pub(super) fn server_of(client: SocketAddr, port: u16) -> SocketAddr {
    if client.is_ipv4() { at(SERVER_V4, port) } else { at(SERVER_V6, port) }
}

/// A SYN of a Linux client.
pub(super) fn syn4() -> TcpFrame {
    syn_to(client4(), DUAL)
}

/// A SYN of a Linux client over IPv6.
pub(super) fn syn6() -> TcpFrame {
    syn_to(client6(), DUAL)
}

/// A SYN of a Linux client to a port of the server.
pub(super) fn syn_to(client: SocketAddr, port: u16) -> TcpFrame {
    TcpFrame::linux_syn(client, server_of(client, port), ISN)
}

/// A segment of a connection that nobody knows.
pub(super) fn stray(client: SocketAddr, flags: u8) -> TcpFrame {
    TcpFrame::new(client, server_of(client, DUAL)).flags(flags).seq(ISN + 1)
}

/// The acknowledgement of a cookie that was made for these options with a key slot of the world.
pub(super) fn proof(
    world: &World,
    client: SocketAddr,
    slot: usize,
    negotiated: &NegotiatedOptions,
) -> TcpFrame {
    let server = server_of(client, DUAL);
    let scale = world.services[0].1.window_scale[slot];
    let isn = expected::isn(client, server, ISN, negotiated, &world.keys[slot], slot, scale);
    let frame = TcpFrame::new(client, server).flags(flag::ACK).seq(ISN + 1).ack(isn.wrapping_add(1));
    match negotiated.stamp {
        Some(stamp) => frame.options(&timestamp_options(stamp, echo(negotiated))),
        None => frame,
    }
}

/// A timestamp of ours that a client echoes.
pub(super) fn echo(negotiated: &NegotiatedOptions) -> u32 {
    0x7654_3200 & !0x1f | expected::timestamp_bits(negotiated)
}

/// Linux options with another MSS, scale and so on.
pub(super) fn options(mss: Option<u16>, stamp: Option<u32>, sack: bool, scale: Option<u8>) -> Vec<TcpOption> {
    let mut options = Vec::new();
    options.extend(mss.map(TcpOption::MaximumSegmentSize));
    if sack {
        options.push(TcpOption::SelectiveAcknowledgementPermitted);
    }
    if let Some(stamp) = stamp {
        options.push(TcpOption::Timestamp(stamp, 0));
    }
    if let Some(scale) = scale {
        options.extend([TcpOption::Noop, TcpOption::WindowScale(scale)]);
    }
    options
}

/// Sets the TCP checksum to what it should be, where there is one.
pub(super) fn repair(frame: &mut [u8]) {
    if let Some((at, checksum)) = right_checksum(frame) {
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Where a frame's TCP checksum is, and what it should be.
fn right_checksum(frame: &[u8]) -> Option<(usize, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let checksum = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
        NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
        NetSlice::Arp(_) => return None,
    };
    let at = tcp.slice().as_ptr() as usize - frame.as_ptr() as usize + 16;
    Some((at, checksum.ok()?))
}
