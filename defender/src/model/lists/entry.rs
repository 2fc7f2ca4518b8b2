//! What is on a list: prefixes, which list, and who put them there. Pure.

use std::net::{IpAddr, Ipv6Addr};

use defender_common::abi;

use crate::{model::prefix::Cidr, problem::Problem};

/// One of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// SYNs from there are never challenged.
    Allow,
    /// SYNs from there are dropped.
    Deny,
}

impl List {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// The list that this one is not.
    pub fn other(self) -> Self {
        match self {
            Self::Allow => Self::Deny,
            Self::Deny => Self::Allow,
        }
    }
}

/// Who put a prefix on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody, by `defender allow add` or `deny add`.
    Hand,
    /// The configuration file.
    File,
    /// The start of a controller: from there somebody administers this host.
    Session,
}

impl Origin {
    /// As listings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::File => "file",
            Self::Session => "session",
        }
    }
}

/// What the map says about a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The list it is on.
    pub list: List,
    /// Who put it there.
    pub origin: Origin,
    /// A comment or a time of expiry is kept with it.
    pub noted: bool,
}

impl Listing {
    /// One without a note.
    pub fn new(list: List, origin: Origin) -> Self {
        Self { list, origin, noted: false }
    }

    /// From `PREFIX_*` bits, as the datapath understands them.
    pub fn from_abi(bits: u32) -> Self {
        let list = if bits & abi::PREFIX_ALLOW != 0 { List::Allow } else { List::Deny };
        let origin = match bits {
            _ if bits & abi::PREFIX_FROM_FILE != 0 => Origin::File,
            _ if bits & abi::PREFIX_FROM_SESSION != 0 => Origin::Session,
            _ => Origin::Hand,
        };
        Self { list, origin, noted: bits & abi::PREFIX_NOTED != 0 }
    }

    /// As `PREFIX_*` bits.
    pub fn to_abi(self) -> u32 {
        let list = match self.list {
            List::Allow => abi::PREFIX_ALLOW,
            List::Deny => abi::PREFIX_DENY,
        };
        let origin = match self.origin {
            Origin::Hand => 0,
            Origin::File => abi::PREFIX_FROM_FILE,
            Origin::Session => abi::PREFIX_FROM_SESSION,
        };
        let noted = if self.noted { abi::PREFIX_NOTED } else { 0 };
        list | origin | noted
    }
}

/// A prefix on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The prefix.
    pub prefix: Cidr,
    /// The list, and who put it there.
    pub listing: Listing,
}

impl Entry {
    /// The prefix that a look-up of `address` has found, by the bits found.
    pub fn found(address: IpAddr, bits: u32) -> Self {
        let (octets, _) = Cidr::from(address).mapped();
        let prefix = Cidr::from_mapped((octets, bits >> abi::PREFIX_LENGTH_SHIFT));
        Self { prefix, listing: Listing::from_abi(bits) }
    }
}

/// Reads a prefix that may be put on a list.
pub fn parse_prefix(text: &str) -> Result<Cidr, Problem> {
    let prefix: Cidr = text.parse()?;
    check(prefix)?;
    Ok(prefix)
}

/// Whether a prefix may be put on a list.
pub fn check(prefix: Cidr) -> Result<(), Problem> {
    let network = prefix.network();
    if network != prefix {
        return Err(Problem::Usage(format!(
            "`{prefix}` has bits set beyond its length; use {network}, or {} for one address",
            prefix.address()
        )));
    }
    // The map has IPv4 within IPv6.
    if prefix.contains(Ipv6Addr::from(abi::mapped([0; 4])).into()) {
        return Err(Problem::Usage(format!(
            "`{prefix}` would also cover IPv4; use 2000::/3 for all IPv6 addresses of the Internet"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_say_list_and_origin() {
        for list in [List::Allow, List::Deny] {
            for origin in [Origin::Hand, Origin::File, Origin::Session] {
                for noted in [false, true] {
                    let listing = Listing { list, origin, noted };
                    let bits = listing.to_abi() | 128 << abi::PREFIX_LENGTH_SHIFT;
                    assert_eq!(Listing::from_abi(bits), listing);
                }
            }
        }
    }

    #[test]
    fn what_a_version_without_notes_wrote_has_none() {
        let bits = abi::PREFIX_DENY | abi::PREFIX_FROM_FILE | 120 << abi::PREFIX_LENGTH_SHIFT;
        assert_eq!(Listing::from_abi(bits), Listing::new(List::Deny, Origin::File));
    }

    #[test]
    fn a_look_up_tells_the_prefix() {
        for (address, length, prefix) in
            [("192.0.2.7", 120, "192.0.2.0/24"), ("2001:db8::7", 32, "2001:db8::/32")]
        {
            let bits = abi::PREFIX_DENY | length << abi::PREFIX_LENGTH_SHIFT;
            let entry = Entry::found(address.parse().expect(address), bits);
            assert_eq!((entry.prefix.to_string().as_str(), entry.listing.list), (prefix, List::Deny));
        }
    }

    #[test]
    fn a_wrong_prefix_is_refused_with_the_one_meant() {
        for (text, advice) in [
            ("192.0.2.7/24", "192.0.2.0/24, or 192.0.2.7 "),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::/0", "2000::/3"),
            ("::/64", "2000::/3"),
            ("::/97", ""),
            ("192.0.2", "192.0.2.0/24"),
        ] {
            match parse_prefix(text) {
                Ok(prefix) => assert_eq!(advice, "", "{prefix}"),
                Err(error) => assert!(!advice.is_empty() && error.to_string().contains(advice), "{error}"),
            }
        }
        for text in ["0.0.0.0/0", "192.0.2.7", "192.0.2.0/24", "2000::/3", "2001:db8::7"] {
            assert_eq!(parse_prefix(text).expect(text).to_string(), text);
        }
    }
}
