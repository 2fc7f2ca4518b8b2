//! Ethernet II with up to two VLAN tags (IEEE 802.1Q).

use network_types::eth::{EthHdr, EtherType};

use super::Packet;
use crate::{abi, verdict::Reason};

/// Length of a header without tags.
pub const HEADER_LEN: usize = EthHdr::LEN;
const TAG_LEN: usize = 4;
/// How many tags are followed.
pub const MAX_TAGS: usize = 2;

// EtherType has them as they lie in memory.
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
    /// What it is.
    pub network: Network,
}

/// Where the network header begins behind so many VLAN tags.
#[inline(always)]
pub const fn behind_tags(tags: u8) -> usize {
    HEADER_LEN + tags as usize * TAG_LEN
}

/// The MAC address that a frame is sent to, as [`abi::mac`] puts it.
#[inline(always)]
pub fn destination(packet: &(impl Packet + ?Sized)) -> Option<u64> {
    const EVERY_BIT: u64 = abi::mac([0xff; 6]);
    let [first] = packet.pairs(0)?;
    Some(first & EVERY_BIT)
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
