//! Building TCP frames, also odd and broken ones.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, SingleVlanHeader, TcpHeader,
    TcpOptionElement, VlanId,
};

use super::{
    checksum::{fold, pseudo_header_sum, sum_words},
    flag,
};
use crate::topology::{CLIENT_MAC, SERVER_MAC};

/// What the TCP checksum field is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The right checksum, as real NICs deliver it.
    #[default]
    Valid,
    /// The folded sum of the pseudo-header, as a local stack leaves it to the hardware.
    Partial,
    /// The right checksum, less one.
    Wrong,
    /// This very value.
    Exactly(u16),
}

/// An IPv6 extension header in front of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options: padding of this many bytes, which is rounded up to fill the header.
    HopByHop(u8),
    /// Destination options: padding as above.
    DestinationOptions(u8),
    /// A routing header of the unassigned type 253 with no segments left, which every host ignores.
    Routing,
    /// A fragment header of a packet that is whole.
    AtomicFragment,
    /// A fragment header: offset in units of eight bytes, and whether more follow.
    Fragment(u16, bool),
}

/// IPv4 options as they lie in the header; padded with zeroes to a multiple of four bytes.
pub type IpOptions = Vec<u8>;

/// A TCP segment in its frame. Begin with [`TcpFrame::new`] or a shorthand, change what the test is about, then
/// [`build`](TcpFrame::build).
#[derive(Clone, Debug)]
pub struct TcpFrame {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    vlans: Vec<(u16, u16)>,
    source: SocketAddr,
    destination: SocketAddr,
    ttl: u8,
    tos: u8,
    identification: u16,
    dont_fragment: bool,
    fragment: (u16, bool),
    ip_options: IpOptions,
    extensions: Vec<Extension>,
    ip_checksum_wrong: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    data_offset: Option<u8>,
    payload: Vec<u8>,
    checksum: Checksum,
    trailer: usize,
}

impl TcpFrame {
    /// A segment without flags, from the client end's MAC to the server end's.
    ///
    /// # Panics
    ///
    /// If one address is IPv4 and the other IPv6.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "addresses of one family");
        Self {
            source_mac: CLIENT_MAC,
            destination_mac: SERVER_MAC,
            vlans: Vec::new(),
            source,
            destination,
            ttl: 64,
            tos: 0,
            identification: 0,
            dont_fragment: true,
            fragment: (0, false),
            ip_options: Vec::new(),
            extensions: Vec::new(),
            ip_checksum_wrong: false,
            flags: 0,
            seq: 0,
            ack: 0,
            window: 64240,
            urgent: 0,
            options: Vec::new(),
            data_offset: None,
            payload: Vec::new(),
            checksum: Checksum::Valid,
            trailer: 0,
        }
    }

    /// A SYN with the options Linux sends.
    pub fn linux_syn(source: SocketAddr, destination: SocketAddr, isn: u32) -> Self {
        let mss = if source.is_ipv4() { 1460 } else { 1440 };
        Self::new(source, destination).flags(flag::SYN).seq(isn).options(&super::linux_options(
            mss,
            0x1234_5678,
            7,
        ))
    }

    /// A SYN with the options Windows sends.
    pub fn windows_syn(source: SocketAddr, destination: SocketAddr, isn: u32) -> Self {
        let mss = if source.is_ipv4() { 1460 } else { 1440 };
        Self::new(source, destination).flags(flag::SYN).seq(isn).options(&super::windows_options(mss, 8))
    }

    /// Sets both MAC addresses.
    #[must_use]
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    /// Adds a customer VLAN tag (0x8100) inside the tags added before.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.vlan_tag(EtherType::VLAN_TAGGED_FRAME.0, id)
    }

    /// Adds a VLAN tag of any type, with priority bits if they are wanted, inside the tags added before.
    #[must_use]
    pub fn vlan_tag(mut self, tpid: u16, tci: u16) -> Self {
        self.vlans.push((tpid, tci));
        self
    }

    /// Sets the time to live or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the type of service or traffic class, with the ECN bits as the lowest two.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the IPv4 identification.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Sets or clears IPv4's don't-fragment bit.
    #[must_use]
    pub fn dont_fragment(mut self, on: bool) -> Self {
        self.dont_fragment = on;
        self
    }

    /// Makes it an IPv4 fragment: offset in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.dont_fragment = false;
        self.fragment = (offset, more);
        self
    }

    /// Sets IPv4 options, up to 40 bytes.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self.ip_options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header behind those added before.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// Breaks the IPv4 header checksum.
    #[must_use]
    pub fn wrong_ip_checksum(mut self) -> Self {
        self.ip_checksum_wrong = true;
        self
    }

    /// Sets the TCP flags, as bits of [`flag`].
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the sequence number.
    #[must_use]
    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    /// Sets the acknowledgement number and the ACK flag.
    #[must_use]
    pub fn ack(mut self, ack: u32) -> Self {
        self.flags |= flag::ACK;
        self.ack = ack;
        self
    }

    /// Sets the window field, unscaled.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// Sets the urgent pointer and the URG flag.
    #[must_use]
    pub fn urgent(mut self, pointer: u16) -> Self {
        self.flags |= flag::URG;
        self.urgent = pointer;
        self
    }

    /// Sets the TCP options, padded with end-of-list to a multiple of four bytes.
    #[must_use]
    pub fn options(self, options: &[TcpOptionElement]) -> Self {
        self.raw_options(&encode(options))
    }

    /// Sets the bytes of the TCP options, up to 40, padded with end-of-list to a multiple of four.
    ///
    /// # Panics
    ///
    /// If there are more than 40 bytes: no header could say so.
    #[must_use]
    pub fn raw_options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= TcpHeader::MAX_LEN - TcpHeader::MIN_LEN, "at most 40 bytes of TCP options");
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Lets the TCP header lie about its length, given in words of four bytes.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        self.data_offset = Some(words);
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Says what the TCP checksum field is to hold.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Appends bytes behind the IP packet, as Ethernet pads short frames.
    #[must_use]
    pub fn trailer(mut self, bytes: usize) -> Self {
        self.trailer = bytes;
        self
    }

    /// The frame's bytes, Ethernet header first.
    pub fn build(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut frame = self.link_header();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(self.ipv4_header(source.octets(), destination.octets(), segment.len()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(self.ipv6_headers(source.octets(), destination.octets(), segment.len()));
            }
            _ => unreachable!("new() takes addresses of one family only"),
        }
        frame.extend(segment);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }

    fn ether_type(&self) -> EtherType {
        if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 }
    }

    fn link_header(&self) -> Vec<u8> {
        let mut types: Vec<_> = self.vlans.iter().map(|(tpid, _)| EtherType(*tpid)).collect();
        types.push(self.ether_type());
        let ethernet = Ethernet2Header {
            source: self.source_mac,
            destination: self.destination_mac,
            ether_type: types[0],
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for ((_, tci), ether_type) in self.vlans.iter().zip(&types[1..]) {
            let id = VlanId::try_new(tci & 0x0fff).unwrap_or_default();
            let header = SingleVlanHeader { vlan_id: id, ether_type: *ether_type, ..Default::default() };
            let mut header = header.to_bytes();
            // Priority and drop-eligible bits.
            header[0] |= (tci >> 8) as u8 & 0xf0;
            bytes.extend(header);
        }
        bytes
    }

    fn ipv4_header(&self, source: [u8; 4], destination: [u8; 4], segment: usize) -> Vec<u8> {
        let mut header = Ipv4Header {
            identification: self.identification,
            dont_fragment: self.dont_fragment,
            more_fragments: self.fragment.1,
            fragment_offset: IpFragOffset::try_new(self.fragment.0).unwrap_or_default(),
            time_to_live: self.ttl,
            protocol: IpNumber::TCP,
            source,
            destination,
            options: self.ip_options.as_slice().try_into().unwrap_or_default(),
            ..Ipv4Header::default()
        };
        header.total_len = (header.header_len() + segment) as u16;
        let mut bytes = header.to_bytes().to_vec();
        bytes[1] = self.tos;
        bytes[10..12].fill(0);
        let checksum = !fold(sum_words(&bytes));
        let checksum = if self.ip_checksum_wrong { checksum.wrapping_sub(1) } else { checksum };
        bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
        bytes
    }

    fn ipv6_headers(&self, source: [u8; 16], destination: [u8; 16], segment: usize) -> Vec<u8> {
        let mut next = IpNumber::TCP;
        let mut extensions = Vec::new();
        for extension in self.extensions.iter().rev() {
            let mut header = extension.header(next);
            next = extension.number();
            header.append(&mut extensions);
            extensions = header;
        }
        let header = Ipv6Header {
            traffic_class: self.tos,
            payload_length: (extensions.len() + segment) as u16,
            next_header: next,
            hop_limit: self.ttl,
            source,
            destination,
            ..Ipv6Header::default()
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(extensions);
        bytes
    }

    fn segment(&self) -> Vec<u8> {
        let header = TcpHeader {
            sequence_number: self.seq,
            acknowledgment_number: self.ack,
            window_size: self.window,
            urgent_pointer: self.urgent,
            ..TcpHeader::new(self.source.port(), self.destination.port(), self.seq, self.window)
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(&self.options);
        let words = self.data_offset.unwrap_or((bytes.len() / 4) as u8);
        bytes[12] = words << 4;
        bytes[13] = self.flags;
        bytes.extend(&self.payload);
        let checksum = self.tcp_checksum(&bytes);
        bytes[16..18].copy_from_slice(&checksum);
        bytes
    }

    /// The bytes of the checksum field; it is zero in `segment`.
    fn tcp_checksum(&self, segment: &[u8]) -> [u8; 2] {
        let pseudo = pseudo_sum(self.source.ip(), self.destination.ip(), segment.len());
        let valid = !fold(pseudo + sum_words(segment));
        match self.checksum {
            Checksum::Valid => valid.to_ne_bytes(),
            Checksum::Partial => fold(pseudo).to_ne_bytes(),
            Checksum::Wrong => u16::from_be(valid).wrapping_sub(1).to_be_bytes(),
            Checksum::Exactly(value) => value.to_be_bytes(),
        }
    }
}

impl Extension {
    fn number(self) -> IpNumber {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::DestinationOptions(_) => IpNumber::IPV6_DESTINATION_OPTIONS,
            Self::Routing => IpNumber::IPV6_ROUTE_HEADER,
            Self::AtomicFragment | Self::Fragment(..) => IpNumber::IPV6_FRAGMENTATION_HEADER,
        }
    }

    fn header(self, next: IpNumber) -> Vec<u8> {
        match self {
            Self::HopByHop(padding) | Self::DestinationOptions(padding) => padded_options(next, padding),
            Self::Routing => vec![next.0, 0, 253, 0, 0, 0, 0, 0],
            Self::AtomicFragment => vec![next.0, 0, 0, 0, 0, 0, 0, 1],
            Self::Fragment(offset, more) => {
                let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
                vec![next.0, 0, high, low, 0, 0, 0, 1]
            }
        }
    }
}

/// An options header with one PadN option; two bytes of header, two of the option, then its padding.
fn padded_options(next: IpNumber, padding: u8) -> Vec<u8> {
    let length = (4 + usize::from(padding)).next_multiple_of(8);
    let mut bytes = vec![next.0, (length / 8 - 1) as u8, 1, (length - 4) as u8];
    bytes.resize(length, 0);
    bytes
}

pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, segment: usize) -> u32 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo_header_sum(&source.octets(), &destination.octets(), IpNumber::TCP.0, segment)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo_header_sum(&source.octets(), &destination.octets(), IpNumber::TCP.0, segment)
        }
        _ => 0,
    }
}

fn encode(options: &[TcpOptionElement]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for option in options {
        match option {
            TcpOptionElement::Noop => bytes.push(1),
            TcpOptionElement::MaximumSegmentSize(mss) => {
                bytes.extend([2, 4]);
                bytes.extend(mss.to_be_bytes());
            }
            TcpOptionElement::WindowScale(scale) => bytes.extend([3, 3, *scale]),
            TcpOptionElement::SelectiveAcknowledgementPermitted => bytes.extend([4, 2]),
            TcpOptionElement::SelectiveAcknowledgement(first, others) => {
                let blocks: Vec<_> =
                    std::iter::once(*first).chain(others.iter().flatten().copied()).collect();
                bytes.extend([5, (2 + 8 * blocks.len()) as u8]);
                for (left, right) in blocks {
                    bytes.extend(left.to_be_bytes());
                    bytes.extend(right.to_be_bytes());
                }
            }
            TcpOptionElement::Timestamp(value, echo) => {
                bytes.extend([8, 10]);
                bytes.extend(value.to_be_bytes());
                bytes.extend(echo.to_be_bytes());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Checksum, Extension, TcpFrame};
    use crate::frame::{ParsedFrame, SumState, flag};

    fn syn_v4() -> TcpFrame {
        TcpFrame::linux_syn("198.18.0.1:1234".parse().unwrap(), "10.203.0.2:80".parse().unwrap(), 7)
    }

    fn syn_v6() -> TcpFrame {
        TcpFrame::linux_syn(
            "[2001:db8:f::1]:1234".parse().unwrap(),
            "[2001:db8:0:1::2]:80".parse().unwrap(),
            7,
        )
    }

    #[test]
    fn a_linux_syn_is_read_back() {
        for frame in [syn_v4(), syn_v6()] {
            let seen = ParsedFrame::parse(&frame.build()).unwrap();
            assert_eq!(
                (seen.flags, seen.seq, seen.source.port(), seen.destination.port()),
                (flag::SYN, 7, 1234, 80)
            );
            assert_eq!((seen.options.window_scale, seen.options.sack_permitted), (Some(7), true));
            assert_eq!(seen.options.timestamps, Some((0x1234_5678, 0)));
            assert_eq!((seen.ip_checksum_valid, seen.checksum), (true, SumState::Valid));
        }
    }

    #[test]
    fn known_bytes() {
        let frame = TcpFrame::new("192.0.2.1:1".parse().unwrap(), "10.203.0.2:80".parse().unwrap())
            .flags(flag::SYN)
            .build();
        let expected = [
            0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0xad, 0xff, 192, 0, 2, 1, 10, 203, 0, 2, // IPv4
            0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xfa, 0xf0, 0xe2, 0xa0, 0, 0, // TCP
        ];
        assert_eq!(frame[..24], expected[..24]);
        assert_eq!(frame[26..50], expected[26..50]);
    }

    #[test]
    fn tags_options_and_extension_headers_stand_before_tcp() {
        let tagged = syn_v4().vlan_tag(0x88a8, 0x2064).vlan(200).ip_options(&[1, 1, 1]).build();
        let seen = ParsedFrame::parse(&tagged).unwrap();
        assert_eq!(seen.vlans, [100, 200]);
        assert_eq!((seen.ip_checksum_valid, seen.checksum), (true, SumState::Valid));
        assert_eq!(tagged[14..16], [0x20, 0x64]);

        let extended =
            syn_v6().extension(Extension::HopByHop(5)).extension(Extension::AtomicFragment).build();
        assert_eq!(extended.len(), syn_v6().build().len() + 16 + 8);
        let seen = ParsedFrame::parse(&extended).unwrap();
        assert_eq!((seen.flags, seen.checksum), (flag::SYN, SumState::Valid));
    }

    #[test]
    fn checksums_are_what_was_asked_for() {
        for (wanted, state) in [
            (Checksum::Valid, SumState::Valid),
            (Checksum::Partial, SumState::Partial),
            (Checksum::Wrong, SumState::Wrong),
            (Checksum::Exactly(0), SumState::Wrong),
        ] {
            for frame in [syn_v4(), syn_v6()] {
                let seen = ParsedFrame::parse(&frame.checksum(wanted).payload(b"odd").build()).unwrap();
                assert_eq!(seen.checksum, state, "{wanted:?}");
            }
        }
        assert!(!ParsedFrame::parse(&syn_v4().wrong_ip_checksum().build()).unwrap().ip_checksum_valid);
    }

    #[test]
    fn a_trailer_is_no_payload() {
        let seen = ParsedFrame::parse(&syn_v4().payload(b"data").trailer(6).build()).unwrap();
        assert_eq!(seen.payload, b"data");
    }
}
