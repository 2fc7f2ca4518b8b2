//! IPv4 and IPv6 addresses, and connections between them.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Operations on an address of either family. Words are in memory order.
pub trait Address: Copy + PartialEq {
    /// Index of the family in `[IPv4, IPv6]` arrays.
    const FAMILY: usize;
    /// The smallest MSS that the kernel accepts for a hand-off (`bpf_sk_assign_tcp_reqsk`: 536, or 1280 −
    /// 60).
    const MIN_MSS: u16;

    /// The 16 bytes used in maps. IPv4 is mapped into IPv6.
    fn octets(self) -> [u8; 16];

    /// The same as words in memory order.
    fn words(self) -> [u32; 4];

    /// The same as two 64-bit words.
    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.words().map(u64::from);
        [a | b << 32, c | d << 32]
    }

    /// Whether a SYN-ACK may be sent to it: unicast, specified, not loopback.
    fn is_answerable(self) -> bool;

    /// Whether it is one of these. Unused entries are zero, which is no host's address.
    fn is_any_of(self, v4: &[V4; 4], v6: &[[u64; 2]; 2]) -> bool;

    /// The network whose hosts share a reply budget: /24 or /64.
    fn budget_prefix(self) -> u64;

    /// The sum of its words, for checksums.
    fn sum(self) -> u64;

    /// Passes the address to `absorb`, one word at a time.
    fn absorb_one(self, absorb: impl FnMut(u32));

    /// Passes both addresses of a connection to `absorb` as 64-bit words.
    fn absorb(source: Self, destination: Self, absorb: impl FnMut(u64));

    /// Like [`Flow::hash`], for one address.
    #[inline(always)]
    fn hash(self, keys: &TableKeys) -> u64 {
        let mut mixer = Mixer::new(keys);
        self.absorb_one(|word| mixer.absorb(word));
        mixer.finish()
    }
}

/// An IPv4 address as a word in memory order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct V4(pub u32);

/// An IPv6 address as words in memory order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

impl V6 {
    /// The address with these [`Address::halves`].
    #[inline(always)]
    pub const fn from_halves(first: u64, second: u64) -> Self {
        Self([first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32])
    }
}

impl From<Ipv4Addr> for V4 {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(address: Ipv6Addr) -> Self {
        Self(words(address.octets()))
    }
}

impl Address for V4 {
    const FAMILY: usize = 0;
    const MIN_MSS: u16 = 536;

    #[inline(always)]
    fn octets(self) -> [u8; 16] {
        mapped(self.0.to_ne_bytes())
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [0, 0, 0xffff_u32.to_be(), self.0]
    }

    #[inline(always)]
    fn is_answerable(self) -> bool {
        let first = self.0.to_ne_bytes()[0];
        // Loopback 127/8, multicast 224/4, unspecified and limited broadcast (RFC 6890). The kernel accepts
        // the rest of 0/8 and 240/4 as sources (net/ipv4/route.c, ip_route_input_slow), so these are
        // challenged like any other.
        match first {
            1..=126 | 128..=223 => true,
            0 => self.0 != 0,
            240..=255 => self.0 != u32::MAX,
            _ => false,
        }
    }

    #[inline(always)]
    fn is_any_of(self, [a, b, c, d]: &[V4; 4], _: &[[u64; 2]; 2]) -> bool {
        self.0 != 0 && (self == *a || self == *b || self == *c || self == *d)
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
    fn absorb_one(self, mut absorb: impl FnMut(u32)) {
        absorb(self.0);
    }

    #[inline(always)]
    fn absorb(source: Self, destination: Self, mut absorb: impl FnMut(u64)) {
        absorb(source.0 as u64 | (destination.0 as u64) << 32);
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
    fn words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn is_answerable(self) -> bool {
        let [a, b, c, d] = self.0;
        if a != 0 || b != 0 {
            let [first, ..] = a.to_ne_bytes();
            let multicast = first == 0xff;
            return !multicast;
        }
        // :: and ::1, and the IPv4-mapped prefix, which must not appear on the wire (RFC 4291, section
        // 2.5).
        !(c == 0 && u32::from_be(d) <= 1 || u32::from_be(c) == 0xffff)
    }

    #[inline(always)]
    fn is_any_of(self, _: &[V4; 4], [a, b]: &[[u64; 2]; 2]) -> bool {
        // Compared by halves: for arrays, the compiler loads quarters.
        let [first, second] = self.halves();
        let is =
            |[other_first, other_second]: &[u64; 2]| (first ^ other_first) | (second ^ other_second) == 0;
        first | second != 0 && (is(a) || is(b))
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
    fn absorb_one(self, mut absorb: impl FnMut(u32)) {
        for word in self.0 {
            absorb(word);
        }
    }

    #[inline(always)]
    fn absorb(source: Self, destination: Self, mut absorb: impl FnMut(u64)) {
        for half in source.halves() {
            absorb(half);
        }
        for half in destination.halves() {
            absorb(half);
        }
    }
}

/// A keyed hash for tables, over words in order. Each word is multiplied by a key of twice its width, and
/// the products are added (Lemire and Kaser, "Strongly universal string hashing is fast", 2014, section 3).
/// Without the keys, any two connections an attacker chooses share a sum with probability 2⁻³³. The final
/// steps only spread the bits and map no two sums to one hash. They are needed because a difference in the
/// words' highest bits reaches only the upper half of the sum.
///
/// A chain of multiplications by one key, as tables often use, lacks this property: some pairs share a hash
/// under every key.
struct Mixer<'a> {
    sum: u64,
    keys: core::slice::Iter<'a, u64>,
}

impl<'a> Mixer<'a> {
    #[inline(always)]
    fn new(keys: &'a TableKeys) -> Self {
        Self { sum: 0, keys: keys.iter() }
    }

    #[inline(always)]
    fn absorb(&mut self, word: u32) {
        let key = self.keys.next().copied().unwrap_or_default();
        self.sum = self.sum.wrapping_add(key.wrapping_mul(word as u64));
    }

    #[inline(always)]
    fn finish(self) -> u64 {
        let hash = (self.sum ^ self.sum >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ hash >> 32
    }
}

/// A connection, from the client's point of view.
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

    /// The sum of both addresses' words, for checksums.
    #[inline(always)]
    pub fn addresses_sum(&self) -> u64 {
        self.source.sum() + self.destination.sum()
    }

    /// A keyed hash for tables, much cheaper than SipHash. Its results never leave this host.
    #[inline(always)]
    pub fn hash(&self, keys: &TableKeys) -> u64 {
        let mut mixer = Mixer::new(keys);
        mixer.absorb(self.ports());
        self.source.absorb_one(|word| mixer.absorb(word));
        self.destination.absorb_one(|word| mixer.absorb(word));
        mixer.finish()
    }

    /// The same connection from the other side.
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

/// Keys of the table hashes, one for each word of a connection ([`Flow::hash`]).
pub type TableKeys = [u64; 9];

/// Sixteen bytes as words in memory order.
pub const fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// An IPv4 address mapped into IPv6, as in the maps.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

#[cfg(test)]
pub(crate) const KEYS: TableKeys = [
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    0x0f1e_2d3c_4b5a_6978,
    0x8796_a5b4_c3d2_e1f0,
    0x1357_9bdf_0246_8ace,
    0x2545_f491_4f6c_dd1d,
    0xda94_2042_e4dd_58b5,
    0x8cb9_2ba7_2f3d_8dd7,
    0xaf25_1af3_b0f0_25b5,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> V4 {
        text.parse::<Ipv4Addr>().unwrap().into()
    }

    fn v6(text: &str) -> V6 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    #[test]
    fn an_address_is_one_of_those_whose_every_half_it_has() {
        let (own, other) = (v6("2001:db8::1"), v6("2001:db8::2"));
        let list = [own.halves(), [0; 2]];
        assert!(own.is_any_of(&[V4(0); 4], &list) && own.is_any_of(&[V4(0); 4], &[[0; 2], own.halves()]));
        for none in [other, v6("2001:db9::1"), v6("::1"), v6("2001:db8::"), v6("::")] {
            assert!(!none.is_any_of(&[V4(0); 4], &list), "{none:?}");
        }
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
        assert_eq!(V6(v4("192.0.2.7").words()).octets(), v4("192.0.2.7").octets());
        assert_eq!(V6(v6("2001:db8::7").words()), v6("2001:db8::7"));
    }

    #[test]
    fn hashes_are_what_they_were() {
        // Computed by a port to another language: a changed hash would misplace all entries of pinned
        // tables.
        let flow = Flow {
            source: V4(0x0102_0304),
            destination: V4(0x0506_0708),
            source_port: 5,
            destination_port: 443,
        };
        assert_eq!(flow.hash(&KEYS), 0xbbfd_6038_a9a5_39a8);
        let flow = Flow {
            source: V6([1, 2, 3, 4]),
            destination: V6([5, 6, 7, 8]),
            source_port: 5,
            destination_port: 443,
        };
        assert_eq!(flow.hash(&KEYS), 0x46e3_bdd2_58ca_f6de);
        assert_eq!(V4(0x0102_0304).hash(&KEYS), 0x50be_7baa_2c6c_7886);
        assert_eq!(V6([1, 2, 3, 4]).hash(&KEYS), 0x5ba3_4166_ed5f_080d);
    }

    #[test]
    fn neighbours_with_ports_that_differ_alike_have_other_hashes() {
        let mut hashes = std::collections::BTreeSet::new();
        for number in 0..=u16::MAX {
            let [high, low] = number.to_be_bytes();
            let source = V4(u32::from_ne_bytes([10, 208, high, low]));
            let source_port = 33_000 ^ u16::from_le_bytes([high, low]);
            let flow = Flow { source, destination: V4(7), source_port, destination_port: 80 };
            hashes.insert(flow.hash(&KEYS));
        }
        assert_eq!(hashes.len(), 1 << 16);
    }

    proptest! {
        /// Multiplication spreads the highest bits least.
        #[test]
        fn addresses_that_differ_in_few_bits_have_other_hashes(
            keys: TableKeys, words: [u32; 4], bits in prop::collection::btree_set(0u32..128, 1..5),
        ) {
            let mut others = words;
            for bit in bits {
                others[bit as usize / 32] ^= 1 << (bit % 32);
            }
            let flow = |source| Flow { source: V6(source), destination: V6([7; 4]), source_port: 5, destination_port: 443 };
            prop_assert_ne!(flow(words).hash(&keys), flow(others).hash(&keys));
        }
    }

    #[test]
    fn neighbours_share_a_budget() {
        assert_eq!(v4("192.0.2.7").budget_prefix(), v4("192.0.2.200").budget_prefix());
        assert_ne!(v4("192.0.2.7").budget_prefix(), v4("192.0.3.7").budget_prefix());
        assert_eq!(v6("2001:db8:0:1::7").budget_prefix(), v6("2001:db8:0:1:ffff::").budget_prefix());
        assert_ne!(v6("2001:db8:0:1::7").budget_prefix(), v6("2001:db8:0:2::7").budget_prefix());
    }
}
