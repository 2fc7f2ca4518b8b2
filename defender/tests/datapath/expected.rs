//! What has to come out: built by etherparse and from the documentation, not by defender's code.

use std::net::{IpAddr, SocketAddr};

use defender_common::{
    abi::{CONFIG_REFLECT_TOS, Config, Interface, KeySlot, Service},
    cookie,
    wire::{
        address::{Address, Flow, V4, V6},
        options::NO_WINDOW_SCALE,
    },
};
use defender_testbed::frame::ParsedFrame;
use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};

use super::{siphash::siphash13, world::World};

/// What a challenge comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NegotiatedOptions {
    /// The index in the cookie: of the MSS with timestamps, where ECN is another bit of it, else of the profile.
    pub(super) index: u8,
    /// The client's MSS, as it is handed over.
    pub(super) mss: u16,
    /// The client's window scale.
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    /// The client's timestamp.
    pub(super) stamp: Option<u32>,
    pub(super) ecn: bool,
}

/// The low bits of our timestamp: window scale (15: none), SACK.
pub(super) fn timestamp_bits(negotiated: &NegotiatedOptions) -> u32 {
    u32::from(negotiated.scale.unwrap_or(15)) | u32::from(negotiated.sack) << 4
}

/// The cookie: epoch 1 bit, index 4 bits, hash 27.
pub(super) fn isn(
    client: SocketAddr,
    server: SocketAddr,
    client_isn: u32,
    negotiated: &NegotiatedOptions,
    key: &KeySlot,
    slot: usize,
    our_scale: u8,
) -> u32 {
    let stamped = negotiated.stamp.is_some();
    let bits = if stamped { timestamp_bits(negotiated) as u8 } else { 0 };
    let index = negotiated.index | u8::from(negotiated.ecn) << 3;
    let input = [
        &connection(client, server)[..],
        &client_isn.to_le_bytes(),
        &key.epoch.to_le_bytes(),
        &[index | u8::from(stamped) << 4, bits, our_scale],
    ];
    let hash = siphash13(key_of(key), &input.concat()) as u32;
    (slot as u32) << 31 | u32::from(index) << 27 | hash & ((1 << 27) - 1)
}

/// The key that a slot was made of.
fn key_of(slot: &KeySlot) -> [u64; 2] {
    let [first, second, ..] = slot.begun;
    [first ^ u64::from_be_bytes(*b"somepseu"), second ^ u64::from_be_bytes(*b"dorandom")]
}

/// The offset of our timestamps (low half), and the flow label (high half).
pub(super) fn offset(client: SocketAddr, server: SocketAddr, config: &Config) -> u64 {
    let [first, second] = config.secret;
    let spread = |word: u64| word.wrapping_mul(second | 1);
    let client_octets = mapped(client.ip());
    let halves = client_octets.as_chunks::<8>().0.iter().map(|half| u64::from_le_bytes(*half));
    let ports = u64::from(client.port()) << 16 | u64::from(server.port());
    let client_word = spread(halves.fold(0, |all, half| all ^ half)).wrapping_add(ports);
    let mixed = spread(table_hash(client, server, config) ^ first).wrapping_add(client_word);
    spread(mixed ^ mixed >> 32).rotate_left(32)
}

/// The hash by which tables are ordered: ports and addresses times keys, then bits spread.
pub(super) fn table_hash(client: SocketAddr, server: SocketAddr, config: &Config) -> u64 {
    let connection = connection(client, server);
    let (addresses, ports) = connection.split_at(connection.len() - 4);
    let input = [ports, addresses].concat();
    let words = input.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_le_bytes(*word)));
    let products = words.zip(config.table_keys).map(|(word, key)| word.wrapping_mul(key));
    let sum = products.fold(0_u64, u64::wrapping_add);
    let hash = (sum ^ sum >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 32
}

/// Both addresses, then both ports as one little-endian number.
fn connection(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let ports = u32::from(client.port()) << 16 | u32::from(server.port());
    [octets(client.ip()), octets(server.ip()), ports.to_le_bytes().to_vec()].concat()
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The frame that answers a SYN. Our timestamp is `stamp`; the clock is not known here.
pub(super) fn syn_ack(
    syn: &[u8],
    negotiated: &NegotiatedOptions,
    world: &World,
    service: &Service,
    stamp: u32,
) -> Vec<u8> {
    let seen = ParsedFrame::parse(syn).expect("the SYN can be read");
    let (client, server) = (seen.source, seen.destination);
    let slot = world.config.key_current as usize;
    let scale = service.window_scale[slot];
    let family = usize::from(client.is_ipv6());

    let mut tcp = TcpHeader::new(
        server.port(),
        client.port(),
        isn(client, server, seen.seq, negotiated, &world.keys[slot], slot, scale),
        service.window[family][usize::from(negotiated.stamp.is_some())],
    );
    tcp.acknowledgment_number = seen.seq.wrapping_add(1);
    (tcp.syn, tcp.ack, tcp.ece) = (true, true, negotiated.ecn);
    let mss = advertised(&world.interface, service, slot, family);
    let hops = match service.ttl[family] {
        0 => [world.interface.ttl, world.interface.hop_limit][family],
        hops => hops,
    };
    let tos = type_of_service(syn, world, service, family);
    tcp.set_options_raw(&reply_options(negotiated, mss, scale, stamp)).expect("at most 40 bytes");

    // Addresses change places; type and tags stay.
    let mut frame = [seen.source_mac, seen.destination_mac].concat();
    frame.extend(&syn[12..14 + 4 * seen.vlans.len()]);
    match (server.ip(), client.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header {
                total_len: (Ipv4Header::MIN_LEN + tcp.header_len()) as u16,
                dont_fragment: true,
                time_to_live: hops,
                dscp: IpDscp::try_new(tos >> 2).expect("six bits"),
                ecn: IpEcn::try_new(tos & 3).expect("two bits"),
                protocol: IpNumber::TCP,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).expect("short");
            frame.extend(ip.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let label = (offset(client, server, &world.config) >> 32) as u32 & 0xf_ffff;
            let ip = Ipv6Header {
                flow_label: Ipv6FlowLabel::try_new(label).expect("20 bits"),
                payload_length: tcp.header_len() as u16,
                next_header: IpNumber::TCP,
                hop_limit: hops,
                traffic_class: tos,
                source: source.octets(),
                destination: destination.octets(),
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).expect("short");
            frame.extend(ip.to_bytes());
        }
        _ => unreachable!("one family"),
    }
    frame.extend(tcp.to_bytes());
    frame
}

/// The listener's, but that of the SYN where `tcp_reflect_tos` says so, without its ECN bits.
fn type_of_service(syn: &[u8], world: &World, service: &Service, family: usize) -> u8 {
    let ip = &syn[14 + 4 * ParsedFrame::parse(syn).expect("the SYN can be read").vlans.len()..];
    let theirs = if family == 0 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 };
    let own = service.tos[family];
    if world.config.flags & CONFIG_REFLECT_TOS == 0 { own } else { theirs & !3 | own & 3 }
}

fn own_mss(interface: &Interface, service: &Service, slot: usize, family: usize) -> u16 {
    let interface = [interface.mss4, interface.mss6][family];
    match service.mss[slot] {
        0 => interface,
        limit => limit.min(interface),
    }
}

/// What is announced: less, where the default route says so.
fn advertised(interface: &Interface, service: &Service, slot: usize, family: usize) -> u16 {
    let own = own_mss(interface, service, slot, family);
    match service.advertised[family] {
        0 => own,
        advertised => advertised.min(own),
    }
}

/// The options in the order and with the padding of Linux (`tcp_options_write`, net/ipv4/tcp_output.c).
fn reply_options(negotiated: &NegotiatedOptions, mss: u16, scale: u8, stamp: u32) -> Vec<u8> {
    let mut bytes = vec![2, 4];
    bytes.extend(mss.to_be_bytes());
    match negotiated.stamp {
        Some(theirs) => {
            bytes.extend(if negotiated.sack { [4, 2] } else { [1, 1] });
            bytes.extend([8, 10]);
            bytes.extend(stamp.to_be_bytes());
            bytes.extend(theirs.to_be_bytes());
        }
        None if negotiated.sack => bytes.extend([1, 1, 4, 2]),
        None => {}
    }
    if negotiated.scale.is_some() {
        bytes.extend([1, 3, 3, scale]);
    }
    bytes
}

/// The metadata that go with every packet of a proven connection.
pub(super) fn mark(ifindex: u32) -> Vec<u8> {
    [0xdef0_7c91, ifindex].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// What the hand-off makes of a segment that proves a cookie: it reads the cookie anew. Packets cannot show that, so this
/// asks the code itself.
pub(super) fn handed_over(
    segment: &ParsedFrame,
    world: &World,
    service: &Service,
) -> Option<NegotiatedOptions> {
    match (segment.source.ip(), segment.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            read(segment, V4::from(source), V4::from(destination), world, service, 0)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            read(segment, V6::from(source), V6::from(destination), world, service, 1)
        }
        _ => unreachable!("one family"),
    }
}

fn read<A: Address>(
    segment: &ParsedFrame,
    source: A,
    destination: A,
    world: &World,
    service: &Service,
    family: usize,
) -> Option<NegotiatedOptions> {
    let flow = Flow {
        source,
        destination,
        source_port: segment.source.port(),
        destination_port: segment.destination.port(),
    };
    let isn = segment.ack.wrapping_sub(1);
    let slot = (isn >> 31) as usize;
    let mss = own_mss(&world.interface, service, slot, family);
    let host = cookie::Host { mss, window_scale: service.window_scale[slot] };
    let stamps = segment.options.timestamps;
    let echo = stamps.map(|(_, echo)| echo);
    let read = cookie::check(&flow, segment.seq, segment.ack, echo, host, &world.keys[slot])?;
    assert_eq!((read.our_window_scale, read.timestamps), (host.window_scale, stamps.is_some()));
    Some(NegotiatedOptions {
        index: (isn >> 27) as u8 & if stamps.is_some() { 7 } else { 15 },
        mss: read.mss,
        scale: Some(read.window_scale).filter(|scale| *scale != NO_WINDOW_SCALE),
        sack: read.sack,
        stamp: stamps.map(|(stamp, _)| stamp),
        ecn: read.ecn,
    })
}
