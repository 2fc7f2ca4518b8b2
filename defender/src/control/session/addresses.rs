//! The addresses of this host, as the datapath knows them.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Session;
use crate::{
    control::interfaces,
    dataplane::maps::Prefix,
    host::{
        addresses::{HostAddresses, LocalPrefix},
        vips::{self, Vip},
    },
};

/// What `LOCAL` holds, and what it does not.
#[derive(Default)]
pub(super) struct Addresses {
    /// Its entries.
    pub local: BTreeSet<Prefix>,
    /// How many addresses of this host it has no room for.
    pub unplaced: usize,
    /// Addresses that a balancer may be in front of.
    pub vips: Vec<Vip>,
}

/// What is to be done so that `LOCAL` holds what is wanted.
struct Changes {
    gone: Vec<Prefix>,
    new: Vec<Prefix>,
    /// Some are new indeed: the filter has not heard of their connections. Those that found no room before are not new.
    are_unheard_of: bool,
}

impl Addresses {
    fn changes(&self, wanted: &BTreeSet<Prefix>) -> Changes {
        let new: Vec<Prefix> = wanted.difference(&self.local).copied().collect();
        Changes {
            gone: self.local.difference(wanted).copied().collect(),
            are_unheard_of: new.len() > self.unplaced,
            new,
        }
    }
}

impl Session {
    /// The addresses at which this host is defended: not those that a balancer sends clients on to.
    pub(super) fn read_addresses(&mut self) -> Result<HostAddresses> {
        let mut addresses = HostAddresses::read()?;
        self.addresses.vips = vips::vips(&addresses.local, &self.links.interfaces)?;
        addresses.local.retain(|prefix| {
            !self.addresses.vips.iter().any(|vip| vip.direct_return && vip.address == prefix.address)
        });
        Ok(addresses)
    }

    pub(super) fn write_local(&mut self, local: &[LocalPrefix]) -> Result<()> {
        let wanted: BTreeSet<Prefix> = interfaces::prefixes(local).into_iter().collect();
        let Changes { gone, new, are_unheard_of } = self.addresses.changes(&wanted);
        for prefix in gone {
            self.maps.local.remove(prefix)?;
        }
        if are_unheard_of {
            self.doubt_filter()?;
        }
        self.addresses.local.retain(|prefix| wanted.contains(prefix));
        for prefix in new {
            // What finds no place is tried again with every refresh.
            if let Err(error) = self.maps.local.insert(prefix) {
                log::debug!("{error:#}");
                break;
            }
            self.addresses.local.insert(prefix);
        }
        self.addresses.unplaced = wanted.len() - self.addresses.local.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_no_room_is_tried_again_and_no_news() {
        let prefix = |last: u8| ([last; 16], 128);
        let wanted: BTreeSet<Prefix> = (1..=3).map(prefix).collect();
        let addresses = Addresses { local: [prefix(0), prefix(1)].into(), ..Addresses::default() };
        let Changes { gone, new, are_unheard_of } = addresses.changes(&wanted);
        assert_eq!((gone, new), (vec![prefix(0)], vec![prefix(2), prefix(3)]));
        assert!(are_unheard_of);
        let full = Addresses { unplaced: 2, ..addresses };
        assert!(!full.changes(&wanted).are_unheard_of);
        assert!(full.changes(&(1..=4).map(prefix).collect()).are_unheard_of);
    }
}
