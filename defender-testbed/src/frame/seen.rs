//! Reading TCP frames.

use std::net::SocketAddr;

use etherparse::{
    LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice,
};

use super::{
    build::pseudo_sum,
    checksum::{fold, sum_words},
};

/// A TCP segment as it was seen on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedFrame {
    /// MAC address of the sender.
    pub source_mac: [u8; 6],
    /// MAC address of the receiver.
    pub destination_mac: [u8; 6],
    /// VLAN ids, the outermost first.
    pub vlans: Vec<u16>,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class, with the ECN bits.
    pub tos: u8,
    /// IPv4 identification; 0 for IPv6.
    pub identification: u16,
    /// IPv4's don't-fragment bit; true for IPv6.
    pub dont_fragment: bool,
    /// The IPv4 header checksum is right; true for IPv6, which has none.
    pub ip_checksum_valid: bool,
    /// Length of the IP packet in bytes.
    pub ip_length: usize,
    /// TCP flags, as bits of [`flag`](super::flag).
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field, unscaled.
    pub window: u16,
    /// What the TCP checksum field holds.
    pub checksum: SumState,
    /// The options that could be read.
    pub options: TcpOptionsSeen,
    /// The bytes of the options.
    pub raw_options: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What a TCP checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumState {
    /// The right checksum.
    Valid,
    /// The folded sum of the pseudo-header: the hardware was meant to do the rest.
    Partial,
    /// Anything else.
    Wrong,
}

/// TCP options of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptionsSeen {
    /// Maximum segment size, in bytes.
    pub mss: Option<u16>,
    /// Window scale, in bits.
    pub window_scale: Option<u8>,
    /// Selective acknowledgements are permitted.
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

impl ParsedFrame {
    /// Reads a frame; nothing if it is no TCP over IPv4 or IPv6.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(LinkSlice::Ethernet2(link)) = &packet.link else { return None };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
        let network = Network::of(packet.net.as_ref()?)?;
        let (source, destination) = network.addresses;
        Some(Self {
            source_mac: link.source(),
            destination_mac: link.destination(),
            vlans: packet.link_exts.iter().filter_map(vlan_id).collect(),
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            ttl: network.ttl,
            tos: network.tos,
            identification: network.identification,
            dont_fragment: network.dont_fragment,
            ip_checksum_valid: network.checksum_valid,
            ip_length: network.length,
            flags: tcp.slice()[13],
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            checksum: sum_state(&network, tcp),
            options: TcpOptionsSeen::of(tcp),
            raw_options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
        })
    }

    /// True if exactly these flags are set.
    pub fn is(&self, flags: u8) -> bool {
        self.flags == flags
    }
}

impl TcpOptionsSeen {
    fn of(tcp: &TcpSlice<'_>) -> Self {
        let mut seen = Self::default();
        for option in tcp.options_iterator().map_while(Result::ok) {
            match option {
                TcpOptionElement::MaximumSegmentSize(mss) => seen.mss = Some(mss),
                TcpOptionElement::WindowScale(scale) => seen.window_scale = Some(scale),
                TcpOptionElement::SelectiveAcknowledgementPermitted => seen.sack_permitted = true,
                TcpOptionElement::Timestamp(value, echo) => seen.timestamps = Some((value, echo)),
                TcpOptionElement::Noop | TcpOptionElement::SelectiveAcknowledgement(..) => {}
            }
        }
        seen
    }
}

/// What matters of an IP header.
struct Network {
    addresses: (std::net::IpAddr, std::net::IpAddr),
    ttl: u8,
    tos: u8,
    identification: u16,
    dont_fragment: bool,
    checksum_valid: bool,
    length: usize,
}

impl Network {
    fn of(net: &NetSlice<'_>) -> Option<Self> {
        match net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                Some(Self {
                    addresses: (header.source_addr().into(), header.destination_addr().into()),
                    ttl: header.ttl(),
                    tos: header.slice()[1],
                    identification: header.identification(),
                    dont_fragment: header.dont_fragment(),
                    checksum_valid: fold(sum_words(header.slice())) == 0xffff,
                    length: usize::from(header.total_len()),
                })
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                Some(Self {
                    addresses: (header.source_addr().into(), header.destination_addr().into()),
                    ttl: header.hop_limit(),
                    tos: header.traffic_class(),
                    identification: 0,
                    dont_fragment: true,
                    checksum_valid: true,
                    length: header.slice().len() + usize::from(header.payload_length()),
                })
            }
            NetSlice::Arp(_) => None,
        }
    }
}

fn vlan_id(extension: &LinkExtSlice<'_>) -> Option<u16> {
    match extension {
        LinkExtSlice::Vlan(vlan) => Some(vlan.vlan_identifier().value()),
        _ => None,
    }
}

fn sum_state(network: &Network, tcp: &TcpSlice<'_>) -> SumState {
    let (source, destination) = network.addresses;
    let segment = tcp.slice();
    let pseudo = pseudo_sum(source, destination, segment.len());
    if fold(pseudo + sum_words(segment)) == 0xffff {
        SumState::Valid
    } else if segment[16..18] == fold(pseudo).to_ne_bytes() {
        SumState::Partial
    } else {
        SumState::Wrong
    }
}
