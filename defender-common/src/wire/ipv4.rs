//! IPv4 (RFC 791).

use network_types::ip::Ipv4Hdr;

use super::{Ip, PROTOCOL_TCP, Packet, address::V4};
use crate::verdict::Reason;

/// Length of a header without options.
pub const HEADER_LEN: usize = Ipv4Hdr::LEN;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const ECN: u32 = 3;

/// Reads the header of an IPv4 packet that may carry TCP.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized), offset: usize) -> Result<Ip<V4>, Reason> {
    let [first, second, third, source, destination] = packet.words(offset).ok_or(Reason::MalformedIp)?;
    let first = u32::from_be(first);
    let header_len = (first >> 22 & 0x3c) as usize;
    let total_len = (first & 0xffff) as usize;
    if first >> 28 != 4 || header_len < HEADER_LEN || total_len < header_len {
        return Err(Reason::MalformedIp);
    }
    if (u32::from_be(third) >> 16) as u8 != PROTOCOL_TCP {
        return Err(Reason::NotTcp);
    }
    let fragment = u32::from_be(second) as u16;
    if fragment & FRAGMENT_OFFSET != 0 {
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
        first_fragment: fragment & MORE_FRAGMENTS != 0,
        ect: first >> 16 & ECN != 0,
    })
}
