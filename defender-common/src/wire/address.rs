//! IPv4 and IPv6 addresses, and connections between them.

use crate::abi;

/// What the datapath asks of an address, of either family. The word order is that of memory.
pub trait Address: Copy + PartialEq {
    /// Index of the family in `[IPv4, IPv6]` arrays.
    const FAMILY: usize;
    /// The smallest MSS the kernel takes a hand-off with (`bpf_sk_assign_tcp_reqsk`: 536, or 1280 − 60).
    const MIN_MSS: u16;

    /// The 16 bytes that maps have; IPv4 is mapped.
    fn octets(self) -> [u8; 16];

    /// Whether a SYN-ACK may be sent to it: unicast, specified, not loopback.
    fn is_answerable(self) -> bool;

    /// Whether it is one of these; unused entries are zero, which is nobody's address.
    fn is_any_of(self, v4: &[[u8; 4]; 4], v6: &[[u8; 16]; 2]) -> bool;

    /// The network whose hosts share a reply budget: /24 or /64.
    fn budget_prefix(self) -> u64;

    /// The words' sum, for checksums.
    fn sum(self) -> u64;

    /// Feeds both addresses of a connection to `absorb` as 64-bit words.
    fn absorb(source: Self, destination: Self, absorb: impl FnMut(u64));
}

/// An IPv4 address: the word as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V4(pub u32);

/// An IPv6 address: the words as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct V6(pub [u32; 4]);

impl Address for V4 {
    const FAMILY: usize = 0;
    const MIN_MSS: u16 = 536;

    #[inline(always)]
    fn octets(self) -> [u8; 16] {
        abi::mapped(self.0.to_ne_bytes())
    }

    #[inline(always)]
    fn is_answerable(self) -> bool {
        let word = u32::from_be(self.0);
        let first = (word >> 24) as u8;
        // Loopback 127/8, multicast 224/4, unspecified and limited broadcast (RFC 6890). The rest of 0/8 and 240/4 the
        // kernel takes as sources (net/ipv4/route.c, ip_route_input_slow), so they are challenged like any other.
        word != 0 && word != u32::MAX && first != 127 && first >> 4 != 14
    }

    #[inline(always)]
    fn is_any_of(self, [a, b, c, d]: &[[u8; 4]; 4], _: &[[u8; 16]; 2]) -> bool {
        let word = |octets: &[u8; 4]| u32::from_ne_bytes(*octets);
        self.0 != 0 && (self.0 == word(a) || self.0 == word(b) || self.0 == word(c) || self.0 == word(d))
    }

    #[inline(always)]
    fn budget_prefix(self) -> u64 {
        (u32::from_be(self.0) >> 8) as u64
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn absorb(source: Self, destination: Self, mut absorb: impl FnMut(u64)) {
        absorb(source.0 as u64 | (destination.0 as u64) << 32);
    }
}

impl V6 {
    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }
}

impl Address for V6 {
    const FAMILY: usize = 1;
    const MIN_MSS: u16 = 1220;

    #[inline(always)]
    fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (chunk, word) in octets.as_chunks_mut().0.iter_mut().zip(self.0) {
            *chunk = word.to_ne_bytes();
        }
        octets
    }

    #[inline(always)]
    fn is_answerable(self) -> bool {
        let [a, b, c, d] = self.0;
        let multicast = u32::from_be(a) >> 24 == 0xff;
        // :: and ::1, and the IPv4-mapped prefix, which never is on the wire (RFC 4291, section 2.5).
        let low = a == 0 && b == 0 && (c == 0 && u32::from_be(d) <= 1 || u32::from_be(c) == 0xffff);
        !multicast && !low
    }

    #[inline(always)]
    fn is_any_of(self, _: &[[u8; 4]; 4], [a, b]: &[[u8; 16]; 2]) -> bool {
        let octets = self.octets();
        octets != [0; 16] && (octets == *a || octets == *b)
    }

    #[inline(always)]
    fn budget_prefix(self) -> u64 {
        self.halves()[0]
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        let [a, b, c, d] = self.0;
        a as u64 + b as u64 + c as u64 + d as u64
    }

    #[inline(always)]
    fn absorb(source: Self, destination: Self, mut absorb: impl FnMut(u64)) {
        let ([a, b], [c, d]) = (source.halves(), destination.halves());
        absorb(a);
        absorb(b);
        absorb(c);
        absorb(d);
    }
}

/// A connection as the client's packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// The client.
    pub source: A,
    /// This host.
    pub destination: A,
    /// The client's port, host order.
    pub source_port: u16,
    /// The service's port, host order.
    pub destination_port: u16,
}

impl<A: Address> Flow<A> {
    /// Both ports in one word: source above destination.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        (self.source_port as u32) << 16 | self.destination_port as u32
    }

    /// A keyed hash by multiplication, for tables: far cheaper than SipHash. Nobody outside sees its results.
    #[inline(always)]
    pub fn mix(&self, [k0, k1]: [u64; 2]) -> u64 {
        let mut hash = k0 ^ self.ports() as u64;
        A::absorb(self.source, self.destination, |word| {
            hash = (hash ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25) ^ k1;
            hash ^= hash >> 32;
        });
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 29
    }

    /// The same connection as the other side names it.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> V4 {
        V4(u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets()))
    }

    fn v6(text: &str) -> V6 {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(octets.as_chunks().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        V6(words)
    }

    #[test]
    fn only_unicast_is_answered() {
        for yes in [
            "192.0.2.1",
            "1.1.1.1",
            "223.255.255.255",
            "128.0.0.1",
            "0.1.2.3",
            "240.0.0.1",
            "255.255.255.254",
        ] {
            assert!(v4(yes).is_answerable(), "{yes}");
        }
        for no in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"] {
            assert!(!v4(no).is_answerable(), "{no}");
        }
        for yes in ["2001:db8::1", "fe80::1", "fd00::1", "::2"] {
            assert!(v6(yes).is_answerable(), "{yes}");
        }
        for no in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
            assert!(!v6(no).is_answerable(), "{no}");
        }
    }

    #[test]
    fn octets_are_in_network_order() {
        assert_eq!(v4("192.0.2.7").octets(), "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(v6("2001:db8::7").octets(), "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    }

    #[test]
    fn neighbours_share_a_budget() {
        assert_eq!(v4("192.0.2.7").budget_prefix(), v4("192.0.2.200").budget_prefix());
        assert_ne!(v4("192.0.2.7").budget_prefix(), v4("192.0.3.7").budget_prefix());
        assert_eq!(v6("2001:db8:0:1::7").budget_prefix(), v6("2001:db8:0:1:ffff::").budget_prefix());
        assert_ne!(v6("2001:db8:0:1::7").budget_prefix(), v6("2001:db8:0:2::7").budget_prefix());
    }
}
