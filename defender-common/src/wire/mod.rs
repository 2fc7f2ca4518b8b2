//! Packet parsing: one module per layer, each with the checks its RFC requires.
//!
//! Words are loaded in memory order, a native load of bytes in network order. They stay that way where only
//! their sum or identity matters (addresses), and are converted with `from_be` where their value does.

pub mod address;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod options;
pub mod tcp;

use network_types::ip::IpProto;

use self::address::Address;
use crate::verdict::Reason;

/// A readable packet. Offsets are in bytes from its beginning.
pub trait Packet {
    /// `N` 32-bit words in memory order, or `None` if the packet ends before the last.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;

    /// `N` pairs of 32-bit words in memory order, the first of each pair in the lower half. `None` if the
    /// packet ends before the last.
    fn pairs<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;

    /// `N` 16-bit words in memory order, or `None` if the packet ends before the last.
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u16; N]>;

    /// One byte, or `None` if the packet ends before it.
    fn byte(&self, offset: usize) -> Option<u8>;

    /// Whether the packet has at least `end` bytes.
    fn reaches(&self, end: usize) -> bool;

    /// [`options::scan_offer`], [`options::scan_timestamps`] and [`options::scan_sum`] of the TCP header at `header`. An
    /// implementation may run them out of line.
    fn scan_offer(&self, header: usize) -> u64 {
        options::scan_offer(self, header)
    }

    /// See [`Self::scan_offer`].
    fn scan_timestamps(&self, header: usize) -> u64 {
        options::scan_timestamps(self, header)
    }

    /// [`options::scan_carried`], likewise.
    fn scan_carried(&self, header: usize) -> Option<u64> {
        options::scan_carried(self, header)
    }

    /// [`ipv6::scan_extensions`], likewise.
    fn scan_extensions(&self, offset: usize, first: u8) -> u64 {
        ipv6::scan_extensions(self, offset, first)
    }

    /// See [`Self::scan_offer`].
    fn scan_sum(&self, header: usize) -> Option<u64> {
        options::scan_sum(self, header)
    }
}

/// Converts a pair of [`Packet::pairs`] to memory order, and back.
#[inline(always)]
pub const fn in_memory(pair: u64) -> u64 {
    if cfg!(target_endian = "big") { pair.rotate_left(32) } else { pair }
}

/// An address family of packets.
pub trait Network: Address {
    /// Checks for what no host sends, in the Ethernet header or the IP header at `network`. The source MAC
    /// address is a group address or this interface's own (`mac`, as [`crate::abi::mac`] encodes it). The
    /// TTL or hop limit is 0. The header checksum is wrong.
    ///
    /// Such a packet is not answered. The kernel itself drops only a wrong checksum. It would answer the
    /// others, but no connection could come of that.
    fn flaw(packet: &(impl Packet + ?Sized), network: usize, mac: u64) -> Option<Reason>;
}

/// An IP packet that may carry TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source.
    pub source: A,
    /// Destination.
    pub destination: A,
    /// Where the transport header begins.
    pub transport: usize,
    /// Length of the transport header and its data, from the IP header.
    pub transport_len: usize,
    /// It is the first of several fragments.
    pub first_fragment: bool,
    /// Type of service or traffic class, with the ECN bits.
    pub tos: u8,
}

/// The ECN bits of a type of service or traffic class (RFC 3168, section 5).
pub const ECN: u8 = 3;

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = IpProto::Tcp as u8;

impl Packet for [u8] {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let bytes = self.get(offset..offset.checked_add(4 * N)?)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Some(words)
    }

    fn pairs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let mut pairs = [0; N];
        for (index, pair) in pairs.iter_mut().enumerate() {
            let [first, second] = self.words(offset.checked_add(index * 8)?)?.map(u64::from);
            *pair = first | second << 32;
        }
        Some(pairs)
    }

    fn halves<const N: usize>(&self, offset: usize) -> Option<[u16; N]> {
        let bytes = self.get(offset..offset.checked_add(2 * N)?)?;
        let mut halves = [0; N];
        for (half, chunk) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = u16::from_ne_bytes(*chunk);
        }
        Some(halves)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.get(offset).copied()
    }

    fn reaches(&self, end: usize) -> bool {
        end <= self.len()
    }
}
