//! IPv6 and the extension headers before TCP (RFC 8200).

use network_types::ip::{IpProto, Ipv6Hdr};

use super::{Ip, Network, PROTOCOL_TCP, Packet, address::V6, ethernet};
use crate::verdict::Reason;

/// Length of the fixed header.
pub const HEADER_LEN: usize = Ipv6Hdr::LEN;
/// The hop limit in the second word, in memory order.
const HOP_LIMIT: u32 = 0xff_u32.to_be();
/// Maximum number of extension headers to follow: each kind once, destination options twice (RFC 8200,
/// section 4.1).
pub const MAX_EXTENSIONS: usize = 5;

const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const ROUTING: u8 = IpProto::Ipv6Route as u8;
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const DESTINATION_OPTIONS: u8 = IpProto::Ipv6Opts as u8;

/// Reads the header of an IPv6 packet that may carry TCP.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized), offset: usize) -> Result<Ip<V6>, Reason> {
    let Some([head, s0, s1, d0, d1]) = packet.pairs(offset) else { return Err(Reason::MalformedIp) };
    let (first, second) = (u32::from_be(head as u32), u32::from_be((head >> 32) as u32));
    if first >> 28 != 6 {
        return Err(Reason::MalformedIp);
    }
    let payload_len = (second >> 16) as usize;
    let next = (second >> 8) as u8;
    let chain = if next == PROTOCOL_TCP { 0 } else { extensions(packet, offset + HEADER_LEN, next)? };
    let used = chain as usize & CHAIN_LEN;
    if payload_len < used || !packet.reaches(offset + HEADER_LEN + payload_len) {
        return Err(Reason::MalformedIp);
    }
    Ok(Ip {
        source: V6::from_halves(s0, s1),
        destination: V6::from_halves(d0, d1),
        transport: offset + HEADER_LEN + used,
        transport_len: payload_len - used,
        first_fragment: chain & CHAIN_FIRST_FRAGMENT != 0,
        tos: (first >> 20) as u8,
    })
}

/// The result of [`scan_extensions`], if TCP follows the extension headers.
#[inline(always)]
fn extensions(packet: &(impl Packet + ?Sized), offset: usize, first: u8) -> Result<u64, Reason> {
    let chain = packet.scan_extensions(offset, first);
    match chain & !(CHAIN_LEN as u64 | CHAIN_FIRST_FRAGMENT) {
        0 => Ok(chain),
        CHAIN_NOT_TCP => Err(Reason::NotTcp),
        CHAIN_TOO_LONG => Err(Reason::ExtensionChain),
        CHAIN_LATER_FRAGMENT => Err(Reason::LaterFragment),
        _ => Err(Reason::MalformedIp),
    }
}

// The result of `scan_extensions`: length of the extension headers, and bits.
const CHAIN_LEN: usize = 0x3fff;
const CHAIN_FIRST_FRAGMENT: u64 = 1 << 16;
const CHAIN_NOT_TCP: u64 = 1 << 17;
const CHAIN_LATER_FRAGMENT: u64 = 1 << 18;
const CHAIN_CUT_SHORT: u64 = 1 << 19;
const CHAIN_TOO_LONG: u64 = 1 << 20;

/// Follows the extension headers from `offset`, the first of kind `first`, up to TCP. The result is a
/// number that [`parse`] decodes, since this runs out of line in eBPF.
#[inline(always)]
pub fn scan_extensions(packet: &(impl Packet + ?Sized), offset: usize, first: u8) -> u64 {
    let mut next = first;
    let mut len = 0;
    let mut flags = 0;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        let Some([word]) = packet.words(offset + len) else { return CHAIN_CUT_SHORT };
        let word = u32::from_be(word);
        if next == FRAGMENT {
            // The offset is in the upper 13 bits of the lower half, M in its lowest (RFC 8200, section
            // 4.5).
            if word & 0xfff8 != 0 {
                return CHAIN_LATER_FRAGMENT;
            }
            flags = if word & 1 != 0 { CHAIN_FIRST_FRAGMENT } else { flags };
            len += 8;
        } else {
            // With segments left, it is on its way to another host (RFC 8200, section 4.4).
            if next == ROUTING && word & 0xff != 0 {
                return CHAIN_NOT_TCP;
            }
            len += 8 + (word >> 16 & 0xff) as usize * 8;
        }
        next = (word >> 24) as u8;
    }
    if next == PROTOCOL_TCP {
        len as u64 & CHAIN_LEN as u64 | flags
    } else if is_extension(next) {
        CHAIN_TOO_LONG
    } else {
        CHAIN_NOT_TCP
    }
}

#[inline(always)]
fn is_extension(kind: u8) -> bool {
    matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

impl Network for V6 {
    #[inline(always)]
    fn flaw(packet: &(impl Packet + ?Sized), network: usize, mac: u64) -> Option<Reason> {
        if !ethernet::is_from_host(packet, mac) {
            return Some(Reason::SynOddMac);
        }
        let [_, second] = packet.words(network)?;
        if second & HOP_LIMIT == 0 { Some(Reason::SynExpired) } else { None }
    }
}

/// Source and destination in the fixed header.
#[inline(always)]
pub fn addresses(packet: &(impl Packet + ?Sized), offset: usize) -> Option<(V6, V6)> {
    let [s0, s1, d0, d1] = packet.pairs(offset + 8)?;
    Some((V6::from_halves(s0, s1), V6::from_halves(d0, d1)))
}
