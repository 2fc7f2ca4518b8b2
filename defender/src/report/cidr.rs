//! Prefixes of addresses, as people write them. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use defender_common::abi;

use crate::problem::Problem;

/// A prefix of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    /// How many leading bits count.
    bits: u32,
}

impl Cidr {
    /// Whether it covers an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && share_prefix(left_aligned(self.address), left_aligned(address), self.bits)
    }

    /// Without what is set beyond its length.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - self.bits).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - self.bits).unwrap_or(0)).into()
            }
        };
        Self { address, ..self }
    }

    /// Its address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// As maps have it: 16 bytes, IPv4 mapped, and how many leading bits count.
    pub fn mapped(self) -> ([u8; 16], u32) {
        match self.address {
            IpAddr::V4(v4) => (abi::mapped(v4.octets()), self.bits + 96),
            IpAddr::V6(v6) => (v6.octets(), self.bits),
        }
    }

    /// The prefix of an address that maps have.
    pub fn from_mapped((address, bits): ([u8; 16], u32)) -> Self {
        Self { address: Ipv6Addr::from(address).into(), bits }.canonical().network()
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self { address, bits: length(address) }.canonical()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == length(self.address) {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        parse(address, bits).ok_or_else(|| {
            let examples = "write an address or a prefix, as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32";
            Problem::Usage(format!("`{text}` is no source: {examples}"))
        })
    }
}

fn parse(address: &str, bits: Option<&str>) -> Option<Cidr> {
    let address: IpAddr = address.parse().ok()?;
    let all = length(address);
    let bits = bits.map_or(Some(all), |bits| bits.parse().ok())?;
    (bits <= all).then_some(Cidr { address, bits }.canonical())
}

impl Cidr {
    /// IPv4 written as IPv6 is IPv4, as everywhere in reports.
    fn canonical(self) -> Self {
        match (self.address, self.address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if self.bits >= 96 => {
                Self { address: v4, bits: self.bits - 96 }
            }
            _ => self,
        }
    }
}

/// How many bits an address has.
fn length(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether two words have the same `bits` leading bits.
pub(super) fn share_prefix(one: u128, other: u128, bits: u32) -> bool {
    (one ^ other).leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(prefix: &str, address: &str) -> bool {
        let prefix: Cidr = prefix.parse().expect("a prefix");
        prefix.contains(address.parse().expect("an address"))
    }

    #[test]
    fn leading_bits_count() {
        for (prefix, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.77/24", "192.0.2.1", "192.0.1.77"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("128.0.0.0/1", "255.0.0.1", "127.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::7", "2001:db8::7", "2001:db8::8"),
            ("::ffff:192.0.2.0/120", "192.0.2.7", "192.0.3.7"),
            ("::/0", "2001:db8::7", "192.0.2.7"),
        ] {
            assert!(contains(prefix, inside), "{prefix} {inside}");
            assert!(!contains(prefix, outside), "{prefix} {outside}");
        }
    }

    #[test]
    fn none_of_the_other_family_is_inside() {
        assert!(contains("0.0.0.0/0", "203.0.113.9") && contains("::/0", "2001:db8::1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1") && !contains("::/0", "203.0.113.9"));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in
            ["", "x", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/x", "2001:db8::/129", "192.0.2/24", "/8"]
        {
            let error = text.parse::<Cidr>().expect_err(text).to_string();
            assert!(error.contains("192.0.2.0/24"), "{error}");
        }
    }

    #[test]
    fn prefixes_are_the_same_in_maps() {
        for (text, bits, network) in [
            ("192.0.2.77/24", 120, "192.0.2.0/24"),
            ("192.0.2.7", 128, "192.0.2.7"),
            ("0.0.0.0/0", 96, "0.0.0.0/0"),
            ("2001:db8::7/32", 32, "2001:db8::/32"),
            ("2001:db8::7", 128, "2001:db8::7"),
            ("::/0", 0, "::/0"),
        ] {
            let prefix: Cidr = text.parse().expect(text);
            assert_eq!((prefix.mapped().1, prefix.network().to_string().as_str()), (bits, network));
            assert_eq!(Cidr::from_mapped(prefix.mapped()), prefix.network());
        }
    }
}
