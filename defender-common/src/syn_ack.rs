//! The SYN-ACK: IP and TCP header as this host's kernel would write them.
//!
//! Option order and padding are those of `tcp_options_write` (net/ipv4/tcp_output.c); DF set and IP ID 0 as
//! `ip_build_and_send_pkt` (net/ipv4/ip_output.c) does for a SYN-ACK.

use crate::{
    checksum,
    cookie::{Cookie, NegotiatedOptions},
    wire::{
        PROTOCOL_TCP,
        address::{Address, Flow, V4, V6},
        in_memory,
        options::{MSS, NOP, SACK_PERMITTED, TIMESTAMPS, WINDOW_SCALE, word},
        tcp::{ACK, ECE, HEADER_LEN as TCP_HEADER_LEN, SYN},
    },
};

/// Words of an IP header without options, of 32 bits each for IPv4 and of 64 for IPv6.
pub const IP_WORDS: usize = 5;
/// Words of a TCP header without options.
pub const TCP_WORDS: usize = 5;
/// The most words of options in a SYN-ACK: MSS, SACK permitted, timestamps, window scale.
pub const OPTION_WORDS: usize = 5;
const DONT_FRAGMENT: u32 = 0x4000;

/// What this host says about itself in a SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The MSS it advertises.
    pub mss: u16,
    /// The window, bytes (never scaled in a SYN-ACK).
    pub window: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Its timestamp.
    pub timestamp: u32,
    /// IPv6 flow label, 20 bits.
    pub flow_label: u32,
}

/// A SYN-ACK's headers, words in memory order; `W` is [`Replies::Word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck<W> {
    /// The IP header.
    pub ip: [W; IP_WORDS],
    /// The TCP header.
    pub tcp: [u32; TCP_WORDS],
    /// The options; zero beyond `option_words`.
    pub options: [u32; OPTION_WORDS],
    /// How many words of options there are.
    pub option_words: usize,
}

/// Length of all headers of a SYN-ACK with these options.
#[inline(always)]
pub fn bytes<A: Replies>(negotiated: &NegotiatedOptions) -> usize {
    size_of::<[A::Word; IP_WORDS]>() + (TCP_WORDS + option_words(negotiated)) * 4
}

/// MSS; timestamps, with room for SACK, or SACK; window scale.
#[inline(always)]
fn option_words(negotiated: &NegotiatedOptions) -> usize {
    let words = if negotiated.timestamps {
        4
    } else if negotiated.sack {
        2
    } else {
        1
    };
    words + negotiated.scales() as usize
}

/// An address family that SYN-ACKs can be written for.
pub trait Replies: Address {
    /// What the IP header is written in.
    type Word: Copy;

    /// Writes the IP header of a packet from this host (`flow.destination`) to the client.
    fn ip_header(flow: &Flow<Self>, tcp_len: usize, own: &Own) -> [Self::Word; IP_WORDS];
}

impl Replies for V4 {
    type Word = u32;

    #[inline(always)]
    fn ip_header(flow: &Flow<Self>, tcp_len: usize, own: &Own) -> [u32; IP_WORDS] {
        let first = (4 << 28 | 5 << 24 | (own.tos as u32) << 16 | (20 + tcp_len as u32)).to_be();
        let second = DONT_FRAGMENT.to_be();
        let third = |[high, low]: [u8; 2]| u32::from_ne_bytes([own.ttl, PROTOCOL_TCP, high, low]);
        let (source, destination) = (flow.destination.0, flow.source.0);
        let sum = first as u64 + second as u64 + third([0; 2]) as u64 + source as u64 + destination as u64;
        let checksum = !checksum::fold(sum);
        [first, second, third(checksum.to_ne_bytes()), source, destination]
    }
}

impl Replies for V6 {
    type Word = u64;

    #[inline(always)]
    fn ip_header(flow: &Flow<Self>, tcp_len: usize, own: &Own) -> [u64; IP_WORDS] {
        let first = 6 << 28 | (own.tos as u32) << 20 | own.flow_label & 0xf_ffff;
        let second = (tcp_len as u32) << 16 | (PROTOCOL_TCP as u32) << 8 | own.ttl as u32;
        let ([s0, s1], [d0, d1]) = (flow.destination.halves(), flow.source.halves());
        [
            ((first as u64) << 32 | second as u64).to_be(),
            in_memory(s0),
            in_memory(s1),
            in_memory(d0),
            in_memory(d1),
        ]
    }
}

/// Writes the SYN-ACK that answers a SYN of `flow`, with its [`Flow::addresses_sum`], and with `client_isn`.
/// `client_timestamp` is echoed.
#[inline(always)]
pub fn syn_ack<A: Replies>(
    (flow, addresses_sum): (&Flow<A>, u64),
    client_isn: u32,
    client_timestamp: u32,
    cookie: &Cookie,
    own: &Own,
) -> SynAck<A::Word> {
    let option_words = option_words(&cookie.negotiated);
    let options = options(cookie, client_timestamp, own);
    let tcp_len = TCP_HEADER_LEN + option_words * 4;
    let flags = SYN | ACK | if cookie.negotiated.ecn { ECE } else { 0 };
    let mut tcp = [
        ((flow.destination_port as u32) << 16 | flow.source_port as u32).to_be(),
        cookie.isn.to_be(),
        client_isn.wrapping_add(1).to_be(),
        ((tcp_len as u32 / 4) << 28 | (flags as u32) << 16 | own.window as u32).to_be(),
        0,
    ];
    let mut sum = checksum::pseudo_header(addresses_sum, tcp_len);
    for word in tcp {
        sum += word as u64;
    }
    for word in options {
        sum += word as u64;
    }
    tcp[4] = ((u16::from_be(!checksum::fold(sum)) as u32) << 16).to_be();
    SynAck { ip: A::ip_header(flow, tcp_len, own), tcp, options, option_words }
}

#[inline(always)]
fn options(cookie: &Cookie, client_timestamp: u32, own: &Own) -> [u32; OPTION_WORDS] {
    let negotiated = &cookie.negotiated;
    let mss = (word(MSS, 4, 0, 0) | own.mss as u32).to_be();
    let scale = (word(NOP, WINDOW_SCALE, 3, 0) | negotiated.our_window_scale as u32).to_be();
    let scale = if negotiated.scales() { scale } else { 0 };
    let sack = if negotiated.sack { word(SACK_PERMITTED, 2, 0, 0) } else { word(NOP, NOP, 0, 0) };
    if negotiated.timestamps {
        let stamp = (sack | word(0, 0, TIMESTAMPS, 10)).to_be();
        return [mss, stamp, own.timestamp.to_be(), client_timestamp.to_be(), scale];
    }
    if negotiated.sack {
        return [mss, word(NOP, NOP, SACK_PERMITTED, 2).to_be(), scale, 0, 0];
    }
    [mss, scale, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::options::NO_WINDOW_SCALE;
    use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice};
    use proptest::prelude::*;

    fn bytes<W: Copy, const N: usize>(reply: &SynAck<W>, in_memory: fn(W) -> [u8; N]) -> Vec<u8> {
        let words = reply.tcp.iter().chain(&reply.options[..reply.option_words]);
        let ip = reply.ip.iter().flat_map(|word| in_memory(*word));
        ip.chain(words.flat_map(|word| word.to_ne_bytes())).collect()
    }

    fn negotiated(timestamps: bool, sack: bool, window_scale: u8) -> NegotiatedOptions {
        NegotiatedOptions { mss: 1460, window_scale, our_window_scale: 10, sack, timestamps, ecn: false }
    }

    const OWN: Own =
        Own { mss: 1460, window: 65160, ttl: 64, tos: 0xb8, timestamp: 0x0102_0304, flow_label: 0x12345 };

    fn v4_reply(negotiated: NegotiatedOptions) -> Vec<u8> {
        let flow = Flow {
            source: V4(u32::from_ne_bytes([192, 0, 2, 7])),
            destination: V4(u32::from_ne_bytes([10, 0, 0, 1])),
            source_port: 40000,
            destination_port: 443,
        };
        let cookie = Cookie { isn: 0xdead_beef, timestamp_bits: 0, negotiated };
        bytes(&syn_ack((&flow, flow.addresses_sum()), 100, 0x0a0b_0c0d, &cookie, &OWN), u32::to_ne_bytes)
    }

    #[test]
    fn options_are_in_the_kernel_s_order() {
        let stamp = [8, 10, 1, 2, 3, 4, 10, 11, 12, 13];
        let mss = [2, 4, 5, 0xb4];
        let scale = [1, 3, 3, 10];
        for (negotiated, expected) in [
            (negotiated(true, true, 7), [&mss[..], &[4, 2], &stamp, &scale].concat()),
            (negotiated(true, false, 7), [&mss[..], &[1, 1], &stamp, &scale].concat()),
            (negotiated(true, true, NO_WINDOW_SCALE), [&mss[..], &[4, 2], &stamp].concat()),
            (negotiated(false, true, 7), [&mss[..], &[1, 1, 4, 2], &scale].concat()),
            (negotiated(false, true, NO_WINDOW_SCALE), [&mss[..], &[1, 1, 4, 2]].concat()),
            (negotiated(false, false, 7), [&mss[..], &scale].concat()),
            (negotiated(false, false, NO_WINDOW_SCALE), mss.to_vec()),
        ] {
            let reply = v4_reply(negotiated);
            assert_eq!(reply[40..], expected);
            let tcp = TcpHeaderSlice::from_slice(&reply[20..]).unwrap();
            assert_eq!(tcp.slice().len(), 20 + expected.len());
        }
    }

    #[test]
    fn ipv4_header_as_the_kernel_s() {
        let reply = v4_reply(negotiated(true, true, 7));
        let ip = Ipv4HeaderSlice::from_slice(&reply).unwrap();
        assert_eq!(ip.source(), [10, 0, 0, 1]);
        assert_eq!(ip.destination(), [192, 0, 2, 7]);
        assert_eq!(ip.identification(), 0);
        assert!(ip.dont_fragment());
        assert_eq!(ip.ttl(), 64);
        assert_eq!((ip.dcp().value(), ip.ecn().value()), (0xb8 >> 2, 0));
        assert_eq!(usize::from(ip.total_len()), reply.len());
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
    }

    proptest! {
        #[test]
        fn ipv4_checksums(source: u32, destination: u32, ports: (u16, u16), isn: u32, theirs: u32, ecn: bool,
            stamps: bool, sack: bool, scale in 0u8..=15) {
            let flow = Flow { source: V4(source), destination: V4(destination), source_port: ports.0, destination_port: ports.1 };
            let negotiated = NegotiatedOptions { ecn, ..negotiated(stamps, sack, scale) };
            let reply = bytes(&syn_ack((&flow, flow.addresses_sum()), theirs, isn, &Cookie { isn, timestamp_bits: 0, negotiated }, &OWN), u32::to_ne_bytes);
            let ip = Ipv4HeaderSlice::from_slice(&reply).unwrap();
            let tcp = TcpHeaderSlice::from_slice(&reply[20..]).unwrap();
            prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            prop_assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
            prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (ports.1, ports.0));
            prop_assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (isn, theirs.wrapping_add(1)));
            prop_assert!(tcp.syn() && tcp.ack() && !tcp.rst() && !tcp.fin() && !tcp.cwr());
            prop_assert_eq!(tcp.ece(), ecn);
        }

        #[test]
        fn ipv6_checksums(source: [u32; 4], destination: [u32; 4], ports: (u16, u16), isn: u32, sack: bool) {
            let flow = Flow { source: V6(source), destination: V6(destination), source_port: ports.0, destination_port: ports.1 };
            let cookie = Cookie { isn, timestamp_bits: 0, negotiated: negotiated(true, sack, 3) };
            let reply = bytes(&syn_ack((&flow, flow.addresses_sum()), 7, 8, &cookie, &OWN), u64::to_ne_bytes);
            let ip = Ipv6HeaderSlice::from_slice(&reply).unwrap();
            let tcp = TcpHeaderSlice::from_slice(&reply[40..]).unwrap();
            prop_assert_eq!(usize::from(ip.payload_length()), reply.len() - 40);
            prop_assert_eq!(ip.hop_limit(), 64);
            prop_assert_eq!(ip.traffic_class(), 0xb8);
            prop_assert_eq!(ip.flow_label().value(), 0x12345);
            prop_assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(&ip, &[]).unwrap());
        }
    }
}
