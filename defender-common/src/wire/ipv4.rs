//! IPv4 (RFC 791).

use network_types::ip::Ipv4Hdr;

use super::{Ip, Network, PROTOCOL_TCP, Packet, address::V4, ethernet};
use crate::{checksum, verdict::Reason};

/// Length of a header without options.
pub const HEADER_LEN: usize = Ipv4Hdr::LEN;
/// Maximum length of a header with options, in words.
const MAX_WORDS: usize = 15;
/// Version 4, and a header without options.
const PLAIN: u8 = 0x45;
// Words in memory order.
const MORE_FRAGMENTS: u32 = 0x2000_u32.to_be();
const FRAGMENT_OFFSET: u32 = 0x1fff_u32.to_be();
const TTL: u32 = 0xff00_0000_u32.to_be();
const PROTOCOL: u32 = 0x00ff_0000_u32.to_be();
const TCP: u32 = ((PROTOCOL_TCP as u32) << 16).to_be();

impl Network for V4 {
    #[inline(always)]
    fn flaw(packet: &(impl Packet + ?Sized), network: usize, mac: u64) -> Option<Reason> {
        if !ethernet::is_from_host(packet, mac) {
            return Some(Reason::SynOddMac);
        }
        let words: [u32; HEADER_LEN / 4] = packet.words(network)?;
        if words[2] & TTL == 0 {
            return Some(Reason::SynExpired);
        }
        let [version_and_len, ..] = words[0].to_ne_bytes();
        let is_intact = if version_and_len == PLAIN {
            is_intact(packet, network)
        } else {
            checksum::is_intact(sum(packet, network, (version_and_len & 0xf) as usize)?)
        };
        if is_intact { None } else { Some(Reason::SynBadIpChecksum) }
    }
}

/// The sum of a header of this many words.
#[inline(always)]
fn sum(packet: &(impl Packet + ?Sized), network: usize, words: usize) -> Option<u64> {
    let mut sum = 0;
    for index in 0..MAX_WORDS {
        if index >= words {
            break;
        }
        let [word] = packet.words(network + index * 4)?;
        sum += word as u64;
    }
    Some(sum)
}

/// Reads the header of an IPv4 packet that may carry TCP.
#[inline(always)]
pub fn parse(packet: &(impl Packet + ?Sized), offset: usize) -> Result<Ip<V4>, Reason> {
    let Some([first, second, third, source, destination]) = packet.words(offset) else {
        return Err(Reason::MalformedIp);
    };
    let [version_and_len, ..] = first.to_ne_bytes();
    let first = u32::from_be(first);
    let header_len = (version_and_len as usize & 0xf) * 4;
    let total_len = (first & 0xffff) as usize;
    // Tested first: nearly every packet passes this.
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
        tos: (first >> 16) as u8,
    })
}

/// Whether the checksum of a header without options is correct. The caller has checked that such a header
/// is there.
#[inline(always)]
pub fn is_intact(packet: &(impl Packet + ?Sized), offset: usize) -> bool {
    let words: Option<[u32; 5]> = packet.words(offset);
    let Some(words) = words else { return false };
    let mut sum = 0;
    for word in words {
        sum += word as u64;
    }
    checksum::is_intact(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, by bytes.
    fn checksum(header: &[u8]) -> u16 {
        let sum: u32 = header.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn a_header_with_one_bit_changed_is_not_intact() {
        // The checksum is b861.
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert!(is_intact(header.as_slice(), 0));
        for bit in 0..header.len() * 8 {
            let mut changed = header;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_intact(changed.as_slice(), 0), "bit {bit}");
        }
        assert!(!is_intact(&header[..19], 0));
    }

    proptest! {
        #[test]
        fn a_header_is_right_with_its_checksum_and_with_no_other(
            mut header in prop::collection::vec(any::<u8>(), 60), words in 5u8..16, ttl in 2u8.., flip in 0usize..160,
        ) {
            // From another host, in an Ethernet frame.
            let flaw = |header: &[u8]| V4::flaw(&[&[2; 14], header].concat()[..], 14, 9);
            (header[0], header[8]) = (0x40 | words, ttl);
            header[10..12].fill(0);
            let value = checksum(&header[..usize::from(words) * 4]);
            header[10..12].copy_from_slice(&value.to_be_bytes());
            prop_assert_eq!(flaw(&header), None);
            // Except the length, which decides what is summed, and the TTL, which may become 0.
            if flip / 8 != 0 && flip / 8 != 8 {
                header[flip / 8] ^= 1 << (flip % 8);
                prop_assert_eq!(flaw(&header), Some(Reason::SynBadIpChecksum));
            }
            header[8] = 0;
            prop_assert_eq!(flaw(&header), Some(Reason::SynExpired));
        }
    }
}
