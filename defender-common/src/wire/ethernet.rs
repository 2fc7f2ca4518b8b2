//! Ethernet II with up to two VLAN tags (IEEE 802.1Q).

use network_types::eth::{EthHdr, EtherType};

use super::Packet;
use crate::{abi, verdict::Reason};

/// Length of a header without tags.
pub const HEADER_LEN: usize = EthHdr::LEN;
const TAG_LEN: usize = 4;
const MAC_LEN: usize = 6;
/// The maximum number of tags to follow.
pub const MAX_TAGS: usize = 2;

// EtherType has these in memory order.
const TYPE_IPV4: u16 = EtherType::Ipv4 as u16;
const TYPE_IPV6: u16 = EtherType::Ipv6 as u16;
const TYPE_VLAN: u16 = EtherType::Ieee8021q as u16;
const TYPE_SERVICE_VLAN: u16 = EtherType::Ieee8021ad as u16;

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Anything else.
    Other,
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the network header begins.
    pub network_offset: usize,
    /// Its protocol.
    pub network: Network,
}

/// Where the network header begins after this many VLAN tags.
#[inline(always)]
pub const fn behind_tags(tags: u8) -> usize {
    HEADER_LEN + tags as usize * TAG_LEN
}

/// A frame's destination MAC address, as [`abi::mac`] encodes it.
#[inline(always)]
pub fn destination(packet: &(impl Packet + ?Sized)) -> Option<u64> {
    mac_at(packet, 0)
}

/// A frame's source MAC address, likewise.
#[inline(always)]
fn source(packet: &(impl Packet + ?Sized)) -> Option<u64> {
    mac_at(packet, MAC_LEN)
}

#[inline(always)]
fn mac_at(packet: &(impl Packet + ?Sized), offset: usize) -> Option<u64> {
    const EVERY_BIT: u64 = abi::mac([0xff; 6]);
    let [first] = packet.pairs(offset)?;
    Some(first & EVERY_BIT)
}

/// Whether the source MAC address can belong to another host: neither a group address (including broadcast)
/// nor `own`.
#[inline(always)]
pub fn is_from_host(packet: &(impl Packet + ?Sized), own: u64) -> bool {
    const GROUP: u64 = abi::mac([1, 0, 0, 0, 0, 0]);
    source(packet).is_some_and(|source| source & GROUP == 0 && source != own)
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized)) -> Result<Frame, Reason> {
    let [mut ethertype] = packet.halves(HEADER_LEN - 2).ok_or(Reason::MalformedIp)?;
    let mut network_offset = HEADER_LEN;
    for _ in 0..MAX_TAGS {
        if ethertype != TYPE_VLAN && ethertype != TYPE_SERVICE_VLAN {
            break;
        }
        let [_, inner] = packet.halves(network_offset).ok_or(Reason::MalformedIp)?;
        ethertype = inner;
        network_offset += TAG_LEN;
    }
    let network = match ethertype {
        TYPE_IPV4 => Network::V4,
        TYPE_IPV6 => Network::V6,
        _ => Network::Other,
    };
    Ok(Frame { network_offset, network })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_in_the_maps_format() {
        let frame: Vec<u8> = (1..=14).collect();
        assert_eq!(destination(&frame[..]), Some(abi::mac([1, 2, 3, 4, 5, 6])));
        assert_eq!(source(&frame[..]), Some(abi::mac([7, 8, 9, 10, 11, 12])));
        assert_eq!(source(&frame[..13]), None);
    }

    #[test]
    fn group_addresses_and_our_own_are_no_other_host() {
        const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];
        for (mac, host) in [
            ([0xff; 6], false),
            ([1, 0, 0x5e, 0, 0, 1], false),
            (OWN, false),
            ([2, 0, 0, 0, 0, 8], true),
            ([6, 0, 0, 0, 0, 9], true),
            ([0; 6], true),
        ] {
            let frame = [&[0xee; 6], &mac[..], &[8, 0]].concat();
            assert_eq!(is_from_host(&frame[..], abi::mac(OWN)), host, "{mac:x?}");
        }
    }
}
