//! Prefixes of addresses, as people write them. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use defender_common::abi;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// A prefix of addresses, or one address.
///
/// IPv4 written as IPv6 is IPv4, as everywhere in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

impl Cidr {
    /// Whether it covers an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Without what is set beyond its length.
    pub fn network(self) -> Self {
        Self(self.0.trunc())
    }

    /// Its address.
    pub fn address(self) -> IpAddr {
        self.0.addr()
    }

    /// As maps have it: 16 bytes, IPv4 mapped, and how many leading bits count.
    pub fn mapped(self) -> ([u8; 16], u32) {
        let bits = u32::from(self.0.prefix_len());
        match self.address() {
            IpAddr::V4(v4) => (abi::mapped(v4.octets()), bits + 96),
            IpAddr::V6(v6) => (v6.octets(), bits),
        }
    }

    /// The prefix of an address that maps have.
    pub fn from_mapped(prefix: ([u8; 16], u32)) -> Self {
        Self::canonical(map_prefix(prefix).into()).network()
    }

    fn canonical(prefix: IpNet) -> Self {
        let v4 = match prefix {
            IpNet::V4(_) => None,
            IpNet::V6(v6) => v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped()),
        };
        Self(v4.map_or(prefix, |(bits, address)| IpNet::new_assert(address.into(), bits)))
    }
}

/// Whether a prefix covers an address, both as maps have them.
pub fn covers(prefix: ([u8; 16], u32), address: [u8; 16]) -> bool {
    map_prefix(prefix).contains(&Ipv6Addr::from(address))
}

fn map_prefix((address, bits): ([u8; 16], u32)) -> Ipv6Net {
    Ipv6Net::new_assert(address.into(), bits.min(128) as u8)
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self::canonical(address.into())
    }
}

impl From<Cidr> for String {
    fn from(prefix: Cidr) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            return write!(f, "{}", self.address());
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Cidr {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse(text).map(Self::canonical).ok_or_else(|| {
            let examples =
                "expected an address or a prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32";
            Problem::Usage(format!("invalid source `{text}`; {examples}"))
        })
    }
}

/// The address is read by the standard library: ipnet's own parser takes 010.0.0.1 for 10.0.0.1.
fn parse(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        Some((address, bits)) => IpNet::new(address.parse().ok()?, bits.parse().ok()?).ok(),
        None => text.parse().ok().map(|address: IpAddr| address.into()),
    }
}

/// An address of the maps.
pub fn address_of(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
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
        for text in [
            "",
            "x",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/x",
            "2001:db8::/129",
            "192.0.2/24",
            "/8",
            "010.0.0.0/8",
        ] {
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
