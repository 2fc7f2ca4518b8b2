//! IPv4 (RFC 791).

use network_types::ip::Ipv4Hdr;

use super::{Ip, PROTOCOL_TCP, Packet, address::V4};
use crate::verdict::Reason;

/// Length of a header without options.
pub const HEADER_LEN: usize = Ipv4Hdr::LEN;
/// Version 4, and a header without options.
const PLAIN: u8 = 0x45;
const ECN: u32 = 3;
// In words as they lie in memory.
const MORE_FRAGMENTS: u32 = 0x2000_u32.to_be();
const FRAGMENT_OFFSET: u32 = 0x1fff_u32.to_be();
const PROTOCOL: u32 = 0x00ff_0000_u32.to_be();
const TCP: u32 = ((PROTOCOL_TCP as u32) << 16).to_be();

/// Reads the header of an IPv4 packet that may carry TCP.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized), offset: usize) -> Result<Ip<V4>, Reason> {
    let [first, second, third, source, destination] = packet.words(offset).ok_or(Reason::MalformedIp)?;
    let [version_and_len, ..] = first.to_ne_bytes();
    let first = u32::from_be(first);
    let header_len = (first >> 22 & 0x3c) as usize;
    let total_len = (first & 0xffff) as usize;
    // What is asked first is so of nearly every packet.
    if version_and_len != PLAIN && (first >> 28 != 4 || header_len < HEADER_LEN) || total_len < header_len {
        return Err(Reason::MalformedIp);
    }
    if third & PROTOCOL != TCP {
        return Err(Reason::NotTcp);
    }
    if second & FRAGMENT_OFFSET != 0 {
        return Err(Reason::LaterFragment);
    }
    if !packet.reaches(offset + total_len) {
        return Err(Reason::MalformedIp);
    }
    Ok(Ip {
        source: V4(source),
        destination: V4(destination),
        transport: offset + header_len,
        transport_len: total_len - header_len,
        first_fragment: second & MORE_FRAGMENTS != 0,
        ect: first >> 16 & ECN != 0,
    })
}
