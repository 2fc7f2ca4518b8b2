//! Any bytes as a frame: Ethernet, IP, TCP. Nothing panics, no offset is outside, and the results match
//! etherparse.

use defender_common::{
    classify::classify,
    verdict::Reason,
    wire::{
        Ip,
        address::{Address, V4, V6},
        ethernet::{self, Network},
        ipv4, ipv6, tcp,
    },
};
use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, TcpHeaderSlice};

use crate::frame::Frame;

/// The first byte selects what to correct in the rest, so that more inputs reach TCP.
pub(crate) fn run(data: &[u8]) {
    let [hints, rest @ ..] = data else { return };
    let mut bytes = rest.to_vec();
    put_right(&mut bytes, *hints);
    let frame = Frame(&bytes);
    match ethernet::parse(&frame) {
        Ok(found) => {
            assert!([14, 18, 22].contains(&found.network_offset) && found.network_offset <= bytes.len());
            let tags = (found.network_offset - 14) / 4;
            assert_eq!(ethernet::behind_tags(tags as u8), found.network_offset);
            match found.network {
                Network::V4 => v4(&bytes, found.network_offset),
                Network::V6 => v6(&bytes, found.network_offset),
                Network::Other => {}
            }
        }
        Err(reason) => assert_eq!(reason, Reason::MalformedIp),
    }
}

/// Bits of `hints`: 1 IPv4, 2 IPv6, 4 one VLAN tag, 8 a length that fits, 16 TCP follows, 64 IPv4 options,
/// 128 two more VLAN tags. 32 means no fragment, else one bit of flags and offset is set.
fn put_right(bytes: &mut [u8], hints: u8) {
    let has = |bit: u8| hints & bit != 0;
    let tags = usize::from(has(4)) + 2 * usize::from(has(128));
    let network = 14 + 4 * tags;
    if bytes.len() < network + 40 {
        return;
    }
    for tag in 0..tags {
        let kind = if tag == 1 { [0x88, 0xa8] } else { [0x81, 0] };
        bytes[12 + 4 * tag..14 + 4 * tag].copy_from_slice(&kind);
    }
    let len = bytes.len() - network;
    let (frame, ip) = bytes.split_at_mut(network);
    if has(1) {
        frame[network - 2..].copy_from_slice(&[0x08, 0]);
        ip[0] = if has(64) { 0x4a } else { 0x45 };
        if has(8) {
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        if has(16) {
            ip[9] = 6;
        }
        let fragment = if has(32) { [0; 2] } else { one_bit(ip[7]) };
        ip[6..8].copy_from_slice(&fragment);
        return;
    }
    if has(2) {
        frame[network - 2..].copy_from_slice(&[0x86, 0xdd]);
        ip[0] = 0x60 | ip[0] & 0xf;
        if has(8) {
            ip[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        if has(16) {
            // TCP, or the extension headers before it.
            ip[6] = [6, 0, 43, 44, 60, 6, 44, 44][(ip[6] & 7) as usize];
        }
        if ip[6] == 44 && ip.len() >= 44 {
            ip[40] = 6;
            let fragment = if has(32) { [0; 2] } else { one_bit(ip[43]) };
            ip[42..44].copy_from_slice(&fragment);
        }
    }
}

fn one_bit(of: u8) -> [u8; 2] {
    (1u16 << (of & 15)).to_be_bytes()
}

fn v4(bytes: &[u8], at: usize) {
    let ours = ipv4::parse(&Frame(bytes), at);
    let theirs = Ipv4HeaderSlice::from_slice(&bytes[at..]).ok().filter(|header| {
        let len = usize::from(header.total_len());
        len >= header.slice().len() && len <= bytes.len() - at && header.protocol() == IpNumber::TCP
    });
    let Some(header) = theirs else {
        assert!(ours.is_err());
        return;
    };
    if header.fragments_offset().value() != 0 {
        assert_eq!(ours, Err(Reason::LaterFragment));
        return;
    }
    let ip = ours.expect("etherparse reads it");
    assert_eq!(ip.source, V4(u32::from_ne_bytes(header.source())));
    assert_eq!(ip.destination, V4(u32::from_ne_bytes(header.destination())));
    assert_eq!(ip.transport, at + header.slice().len());
    assert_eq!(ip.transport + ip.transport_len, at + usize::from(header.total_len()));
    assert_eq!(ip.first_fragment, header.more_fragments());
    assert_eq!(ip.tos, header.dcp().value() << 2 | header.ecn().value());
    segment(bytes, &ip);
}

fn v6(bytes: &[u8], at: usize) {
    let ip = match ipv6::parse(&Frame(bytes), at) {
        Ok(ip) => ip,
        Err(reason) => {
            let reasons =
                [Reason::MalformedIp, Reason::NotTcp, Reason::LaterFragment, Reason::ExtensionChain];
            assert!(reasons.contains(&reason), "{reason:?}");
            return;
        }
    };
    let header = Ipv6HeaderSlice::from_slice(&bytes[at..]).expect("was read");
    let words = |octets: [u8; 16]| {
        let [a, b, c, d] =
            [0, 4, 8, 12].map(|at| [octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        V6([a, b, c, d].map(u32::from_ne_bytes))
    };
    assert_eq!(ip.source, words(header.source()));
    assert_eq!(ip.destination, words(header.destination()));
    let end = at + 40 + usize::from(header.payload_length());
    assert_eq!(ip.transport + ip.transport_len, end);
    assert!(end <= bytes.len());
    // etherparse is stricter about the order of extension headers. Where it follows them too, it must end
    // at the same place.
    let chain = Ipv6ExtensionsSlice::from_slice(header.next_header(), &bytes[at + 40..end]);
    if let Ok((extensions, IpNumber::TCP, rest)) = chain {
        assert_eq!(rest.len(), ip.transport_len);
        assert_eq!(extensions.is_fragmenting_payload(), ip.first_fragment);
    }
    segment(bytes, &ip);
}

fn segment<A: Address + std::fmt::Debug>(bytes: &[u8], ip: &Ip<A>) {
    assert!(ip.transport + ip.transport_len <= bytes.len());
    let payload = &bytes[ip.transport..ip.transport + ip.transport_len];
    let theirs = TcpHeaderSlice::from_slice(payload);
    let found = match tcp::parse(&Frame(bytes), ip) {
        Ok(found) => found,
        Err(reason) => {
            assert!(theirs.is_err());
            let cut_short = if ip.first_fragment { Reason::FragmentHeader } else { Reason::MalformedTcp };
            assert!(reason == cut_short || reason == Reason::MalformedTcp);
            return;
        }
    };
    let header = theirs.expect("was read");
    assert_eq!((found.header, found.len), (ip.transport, ip.transport_len));
    assert_eq!(found.data(), ip.transport + header.slice().len());
    assert!(found.options_len <= 40 && found.data() + found.data_len() == ip.transport + ip.transport_len);
    assert_eq!(found.flow.source_port, header.source_port());
    assert_eq!(found.flow.destination_port, header.destination_port());
    assert_eq!(found.sequence, header.sequence_number());
    assert_eq!(found.acknowledgement, header.acknowledgment_number());
    assert_eq!(found.window, header.window_size());
    assert_eq!(found.flags & tcp::SYN != 0, header.syn());
    assert_eq!(found.flags & tcp::ACK != 0, header.ack());
    assert_eq!(found.flags & tcp::RST != 0, header.rst());
    assert_eq!(found.flags & tcp::FIN != 0, header.fin());
    assert_eq!(u16::from_be(found.checksum), header.checksum());
    // The header was complete, so its options are there.
    assert!(found.options().syn(&Frame(bytes)).is_some());
    let _ = (found.options().timestamps(&Frame(bytes)), classify(found.flags), found.flow.reversed());
}
