//! The SYN-ACK: etherparse reads the negotiated options from it, its checksums are right, and our own
//! parser reads it too.

use std::fmt::Debug;

use defender_common::{
    abi::KeySlot,
    checksum,
    cookie::{Cookie, Host, Proposal},
    profile,
    syn_ack::{self, Own, Replies},
    wire::{
        Ip,
        address::{Address, Flow},
        ethernet, ipv4, ipv6,
        options::{NO_WINDOW_SCALE, Offer},
        tcp,
    },
};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, TcpOptionElement};

use crate::{bytes::FuzzInput, frame::Frame};

pub(crate) fn run(data: &[u8]) {
    let mut input = FuzzInput(data);
    if input.bool() {
        let flow = input.flow_v6();
        let (bytes, made) = written(&flow, u64::to_ne_bytes, &mut input, [0x86, 0xdd]);
        let ip = Ipv6HeaderSlice::from_slice(&bytes[14..]).expect("an IPv6 header");
        assert_eq!(usize::from(ip.payload_length()), bytes.len() - 54);
        assert_eq!((ip.hop_limit(), ip.flow_label().value()), (made.own.ttl, made.own.flow_label & 0xf_ffff));
        let header = TcpHeaderSlice::from_slice(&bytes[54..]).expect("a TCP header");
        assert_eq!(header.checksum(), header.calc_checksum_ipv6(&ip, &[]).expect("short"));
        agreed(&header, &flow, &made);
        read_back(&bytes, ipv6::parse(&Frame(&bytes), 14).expect("IPv6"), &flow, &mut input);
    } else {
        let flow = input.flow_v4();
        let (bytes, made) = written(&flow, u32::to_ne_bytes, &mut input, [0x08, 0]);
        let ip = Ipv4HeaderSlice::from_slice(&bytes[14..]).expect("an IPv4 header");
        assert_eq!(usize::from(ip.total_len()), bytes.len() - 14);
        assert_eq!((ip.ttl(), ip.identification(), ip.dont_fragment()), (made.own.ttl, 0, true));
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        let header = TcpHeaderSlice::from_slice(&bytes[34..]).expect("a TCP header");
        assert_eq!(header.checksum(), header.calc_checksum_ipv4(&ip, &[]).expect("short"));
        agreed(&header, &flow, &made);
        read_back(&bytes, ipv4::parse(&Frame(&bytes), 14).expect("IPv4"), &flow, &mut input);
    }
}

/// The inputs of a reply.
struct MadeReply {
    offer: Offer,
    isn: u32,
    cookie: Cookie,
    own: Own,
}

fn written<A: Replies, const N: usize>(
    flow: &Flow<A>,
    in_memory: fn(A::Word) -> [u8; N],
    input: &mut FuzzInput<'_>,
    ethertype: [u8; 2],
) -> (Vec<u8>, MadeReply) {
    let (offer, isn, ecn) = (input.offer(), input.u32(), input.bool());
    let host = Host { mss: input.mss(), window_scale: input.u8() % NO_WINDOW_SCALE };
    let key = KeySlot::new([input.u64(), input.u64()], input.u32());
    let index = profile::index(A::FAMILY, &offer, host.mss, host.window_scale);
    let cookie = Proposal::new::<A>(&offer, index, ecn && offer.timestamps, host).cookie(flow, isn, 0, &key);
    let own = Own {
        mss: input.u16(),
        window: input.u16(),
        tos: input.u8(),
        ttl: input.u8(),
        timestamp: input.u32(),
        flow_label: input.u32(),
    };
    let reply = syn_ack::syn_ack((flow, flow.addresses_sum()), isn, offer.timestamp, &cookie, &own);
    let words = reply.tcp.iter().chain(&reply.options[..reply.option_words]);
    let mut bytes = [[0; 12].as_slice(), &ethertype].concat();
    bytes.extend(reply.ip.iter().flat_map(|word| in_memory(*word)));
    bytes.extend(words.flat_map(|word| word.to_ne_bytes()));
    assert_eq!(bytes.len(), 14 + syn_ack::bytes::<A>(&cookie.negotiated));
    assert!(reply.options[reply.option_words..].iter().all(|word| *word == 0));
    (bytes, MadeReply { offer, isn, cookie, own })
}

fn agreed<A: Address>(header: &TcpHeaderSlice<'_>, flow: &Flow<A>, made: &MadeReply) {
    let negotiated = &made.cookie.negotiated;
    assert_eq!((header.source_port(), header.destination_port()), (flow.destination_port, flow.source_port));
    assert_eq!(header.sequence_number(), made.cookie.isn);
    assert_eq!(header.acknowledgment_number(), made.isn.wrapping_add(1));
    assert_eq!(header.window_size(), made.own.window);
    assert!(header.syn() && header.ack() && !header.rst() && !header.fin() && !header.psh() && !header.cwr());
    assert_eq!(header.ece(), negotiated.ecn);
    let mut expected = vec![TcpOptionElement::MaximumSegmentSize(made.own.mss)];
    if negotiated.sack {
        expected.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
    }
    if negotiated.timestamps {
        expected.push(TcpOptionElement::Timestamp(made.own.timestamp, made.offer.timestamp));
    }
    if negotiated.scales() {
        expected.push(TcpOptionElement::WindowScale(negotiated.our_window_scale));
    }
    let options = header.options_iterator().map(|option| option.expect("a well-formed option"));
    let options: Vec<_> = options.filter(|option| *option != TcpOptionElement::Noop).collect();
    assert_eq!(options, expected);
}

fn read_back<A: Address + Debug>(bytes: &[u8], ip: Ip<A>, flow: &Flow<A>, input: &mut FuzzInput<'_>) {
    let frame = Frame(bytes);
    assert_eq!(ethernet::parse(&frame).map(|frame| frame.network_offset), Ok(14));
    let segment = tcp::parse(&frame, &ip).expect("TCP");
    assert_eq!(segment.flow, flow.reversed());
    let pseudo_header = checksum::pseudo_header(segment.flow.addresses_sum(), segment.len);
    let sum = |bytes: &[u8]| {
        let words = bytes[ip.transport..].as_chunks().0.iter();
        words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>()
    };
    assert!(checksum::acceptable(pseudo_header, sum(bytes), segment.checksum, false));
    assert_eq!(sum(bytes), segment.header_sum + segment.options().syn(&frame).expect("whole").sum);
    let mut broken = bytes.to_vec();
    let bit = usize::from(input.u16()) % ((bytes.len() - ip.transport) * 8);
    broken[ip.transport + bit / 8] ^= 1 << (bit % 8);
    let field = u16::from_ne_bytes([broken[ip.transport + 16], broken[ip.transport + 17]]);
    assert!(!checksum::acceptable(pseudo_header, sum(&broken), field, false));
}
