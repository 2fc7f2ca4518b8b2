//! What the firewall's rules mean for services, worked out once for each until something changes.

use std::collections::BTreeMap;

use defender_common::abi;

use crate::{
    host::firewall::{Destination, Firewall, Judgement, Tracking},
    model::endpoint::Endpoint,
};

/// The rules, and what was made of them.
pub struct Judgements {
    firewall: Firewall,
    interfaces: Vec<String>,
    tracking: Tracking,
    known: BTreeMap<Endpoint, Judgement>,
}

impl Judgements {
    /// Rules of which nothing was made yet.
    pub fn new(firewall: Firewall, tracking: Tracking) -> Self {
        Self { firewall, interfaces: Vec::new(), tracking, known: BTreeMap::new() }
    }

    /// The rules may have changed. A reading that failed says nothing new.
    pub fn set_firewall(&mut self, firewall: Firewall) {
        if firewall.failed || firewall == self.firewall {
            return;
        }
        self.firewall = firewall;
        self.known.clear();
    }

    /// The interfaces, as IP calls them.
    pub fn set_interfaces(&mut self, interfaces: Vec<String>) {
        if interfaces != self.interfaces {
            self.interfaces = interfaces;
            self.known.clear();
        }
    }

    /// What conntrack makes of connections that are handed over.
    pub fn set_tracking(&mut self, tracking: Tracking) {
        if tracking != self.tracking {
            self.tracking = tracking;
            self.known.clear();
        }
    }

    /// What the rules mean for a service.
    pub fn of(&mut self, endpoint: &Endpoint) -> &Judgement {
        let judge = || self.firewall.judge(&self.interfaces, &destination(endpoint), self.tracking);
        self.known.entry(*endpoint).or_insert_with(judge)
    }

    /// Forgets services that have ended.
    pub fn retain(&mut self, is_there: impl Fn(&Endpoint) -> bool) {
        self.known.retain(|endpoint, _| is_there(endpoint));
    }
}

/// The service as the firewall sees it.
fn destination(endpoint: &Endpoint) -> Destination {
    let [v4, v6] = [abi::SERVICE_FAMILY_V4, abi::SERVICE_FAMILY_V6].map(|family| endpoint.has(family));
    Destination { address: endpoint.address, port: endpoint.port, v4, v6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOSE: Tracking = Tracking { loose: true, one_new: false };

    #[test]
    fn a_failed_reading_changes_nothing() {
        let mut judgements = Judgements::new(Firewall::default(), LOOSE);
        let unread = Firewall::unread("nft is not installed", false);
        judgements.set_firewall(unread.clone());
        assert_eq!(judgements.firewall, unread);
        judgements.set_firewall(Firewall::unread("nft failed", true));
        assert_eq!(judgements.firewall, unread);
    }
}
