//! What has to come out: built by etherparse, the standard library's hashes and the documentation, not by defender's code.

use std::{
    hash::Hasher,
    net::{IpAddr, SocketAddr},
};

use defender_common::abi::{Interface, KeySlot, Service};
use defender_testbed::frame::Seen;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};

use super::world::World;

/// What a challenge comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The index in the cookie: of the MSS with timestamps, else of the profile.
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

/// The low bits of our timestamp: window scale (15: none), SACK, ECN.
pub(super) fn timestamp_bits(terms: &Terms) -> u32 {
    u32::from(terms.scale.unwrap_or(15)) | u32::from(terms.sack) << 4 | u32::from(terms.ecn) << 5
}

/// The cookie: epoch 1 bit, index 3 bits and hash 28 with timestamps; 1, 4 and 27 without.
#[expect(deprecated, reason = "the standard library's SipHash-2-4 is an independent implementation")]
pub(super) fn isn(
    client: SocketAddr,
    server: SocketAddr,
    client_isn: u32,
    terms: &Terms,
    key: &KeySlot,
    slot: usize,
    our_scale: u8,
) -> u32 {
    let stamped = terms.stamp.is_some();
    let bits = if stamped { timestamp_bits(terms) as u8 } else { 0 };
    let mut hasher = std::hash::SipHasher::new_with_keys(key.key[0], key.key[1]);
    hasher.write(&octets(client.ip()));
    hasher.write(&octets(server.ip()));
    hasher.write(&ports(client, server));
    hasher.write(&client_isn.to_le_bytes());
    hasher.write(&key.epoch.to_le_bytes());
    hasher.write(&[terms.index | u8::from(stamped) << 4, bits, our_scale]);
    let hash = hasher.finish() as u32;
    let hash_bits = if stamped { 28 } else { 27 };
    (slot as u32) << 31 | u32::from(terms.index) << hash_bits | hash & ((1 << hash_bits) - 1)
}

/// The offset of our timestamps (low half), and the flow label (high half): SipHash-1-3 under the world's secret. That is
/// zero, and so the standard library's own hash is the same function.
pub(super) fn offset(client: SocketAddr, server: SocketAddr) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&octets(client.ip()));
    hasher.write(&octets(server.ip()));
    hasher.write(&ports(client, server));
    hasher.write(&[0; 3]);
    hasher.finish()
}

fn ports(client: SocketAddr, server: SocketAddr) -> [u8; 4] {
    (u32::from(client.port()) << 16 | u32::from(server.port())).to_le_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The frame that answers a SYN. Our timestamp is `stamp`; the clock is not known here.
pub(super) fn syn_ack(syn: &[u8], terms: &Terms, world: &World, service: &Service, stamp: u32) -> Vec<u8> {
    let seen = Seen::parse(syn).expect("the SYN can be read");
    let (client, server) = (seen.source, seen.destination);
    let slot = world.config.key_current as usize;
    let scale = service.window_scale[slot];
    let family = usize::from(client.is_ipv6());

    let mut tcp = TcpHeader::new(
        server.port(),
        client.port(),
        isn(client, server, seen.seq, terms, &world.keys[slot], slot, scale),
        service.window[family][usize::from(terms.stamp.is_some())],
    );
    tcp.acknowledgment_number = seen.seq.wrapping_add(1);
    (tcp.syn, tcp.ack, tcp.ece) = (true, true, terms.ecn);
    let mss = own_mss(&world.interface, service, family);
    tcp.set_options_raw(&reply_options(terms, mss, scale, stamp)).expect("at most 40 bytes");

    // Addresses change places; type and tags stay.
    let mut frame = [seen.source_mac, seen.destination_mac].concat();
    frame.extend(&syn[12..14 + 4 * seen.vlans.len()]);
    match (server.ip(), client.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header {
                total_len: (Ipv4Header::MIN_LEN + tcp.header_len()) as u16,
                dont_fragment: true,
                time_to_live: world.interface.ttl,
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
            let label = (offset(client, server) >> 32) as u32 & 0xf_ffff;
            let ip = Ipv6Header {
                flow_label: Ipv6FlowLabel::try_new(label).expect("20 bits"),
                payload_length: tcp.header_len() as u16,
                next_header: IpNumber::TCP,
                hop_limit: world.interface.hop_limit,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).expect("short");
            frame.extend(ip.to_bytes());
        }
        _ => unreachable!("one family"),
    }
    frame.extend(tcp.to_bytes());
    frame
}

fn own_mss(interface: &Interface, service: &Service, family: usize) -> u16 {
    let interface = [interface.mss4, interface.mss6][family];
    match service.mss[family] {
        0 => interface,
        learnt => learnt.min(interface),
    }
}

/// The options in the order and with the padding of Linux (`tcp_options_write`, net/ipv4/tcp_output.c).
fn reply_options(terms: &Terms, mss: u16, scale: u8, stamp: u32) -> Vec<u8> {
    let mut bytes = vec![2, 4];
    bytes.extend(mss.to_be_bytes());
    match terms.stamp {
        Some(theirs) => {
            bytes.extend(if terms.sack { [4, 2] } else { [1, 1] });
            bytes.extend([8, 10]);
            bytes.extend(stamp.to_be_bytes());
            bytes.extend(theirs.to_be_bytes());
        }
        None if terms.sack => bytes.extend([1, 1, 4, 2]),
        None => {}
    }
    if terms.scale.is_some() {
        bytes.extend([1, 3, 3, scale]);
    }
    bytes
}

/// The metadata that goes with a proven connection: 24 bytes.
pub(super) fn ticket(terms: &Terms, stamps: Option<(u32, u32)>, service: u32, our_scale: u8) -> Vec<u8> {
    let (stamp, echo) = stamps.unwrap_or_default();
    let mut bytes: Vec<u8> =
        [0xdef0_7c91, stamp, echo, service].into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend(terms.mss.to_ne_bytes());
    bytes.extend(match terms.scale {
        Some(scale) => [scale, our_scale],
        None => [0, 0],
    });
    let flags = [terms.scale.is_some(), terms.sack, terms.stamp.is_some(), terms.ecn];
    bytes.push((0..).zip(flags).map(|(bit, on)| u8::from(on) << bit).sum());
    bytes.extend([0; 3]);
    bytes
}
