//! Interfaces: attached, followed when they go, come back or get another name, and written to the maps.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::Session;
use crate::{
    control::interfaces,
    dataplane::{
        held::HeldLinks,
        link,
        pins::{PinRoot, Rollback},
        restore,
    },
    host::{
        addresses::HostAddresses,
        links::{self, Link, Obstacle},
        routes, sysctl,
    },
    model::{map_values::Defaults, sysctls::Sysctls, window::WindowRules},
};

/// What is attached where.
#[derive(Default)]
pub(super) struct Attachment {
    /// The links, whatever becomes of their pins.
    pub held: HeldLinks,
    /// The interfaces, by name.
    pub interfaces: Vec<String>,
    /// Those that are gone for now.
    pub missing: BTreeSet<String>,
    /// Interfaces that cannot be defended any more, and why.
    pub hindered: BTreeMap<String, Obstacle>,
    /// Listeners bound to other devices are no concern of ours.
    pub devices: BTreeSet<u32>,
    /// SYN-ACKs per second that the fastest link carries, if known.
    pub link_replies: Option<u32>,
}

impl Attachment {
    /// Takes in what the interfaces are like now. Returns those that can be defended again.
    pub(super) fn take_in(&mut self, links: &[Link]) -> Vec<String> {
        self.link_replies = interfaces::link_replies(links);
        self.devices = links::devices(links);
        let obstacle = |link: &Link| Some((link.name.clone(), link.obstacle()?));
        let before = std::mem::replace(&mut self.hindered, links.iter().filter_map(obstacle).collect());
        before.into_keys().filter(|name| !self.hindered.contains_key(name)).collect()
    }
}

impl Session {
    pub(super) fn attach(&mut self, links: &[Link], rollback: &mut Rollback) -> Result<()> {
        let addresses = self.read_addresses()?;
        self.retain_interfaces(links)?;
        link::attach_sock_state(&mut self.programs, &self.root, rollback)?;
        link::attach_listing(&mut self.programs, &self.root, rollback)?;
        for link in links {
            self.attach_interface(link, &addresses, rollback)?;
        }
        self.links.held.adopt(&self.root)
    }

    pub(super) fn attach_interface(
        &mut self,
        link: &Link,
        addresses: &HostAddresses,
        rollback: &mut Rollback,
    ) -> Result<()> {
        let done = if link::is_attached(&self.root, link)? { "taken over" } else { "attached" };
        if link.obstacle().is_none() {
            self.write_interface(link, addresses, rollback)?;
        }
        link::attach_interface(&mut self.programs, &self.root, link, rollback)?;
        let mode = links::interface(&link.name)?.xdp.first().map_or("unknown", |program| program.mode.name());
        log::info!(INTERFACE = link.name; "{}: {done} ({mode} XDP)", link.name);
        if !link.up {
            log::warn!(
                INTERFACE = link.name;
                "{} is down: nothing arrives until `ip link set {} up`", link.name, link.name
            );
        }
        Ok(())
    }

    /// Attaches the hand-off to the interface's VLAN devices and writes its entry.
    pub(super) fn write_interface(
        &mut self,
        link: &Link,
        addresses: &HostAddresses,
        rollback: &mut Rollback,
    ) -> Result<()> {
        link::remove_stale_vlans(&self.root, link)?;
        for vlan in &link.vlans {
            if link::attach_vlan(&mut self.programs, &self.root, link, vlan, rollback)? {
                log::info!(
                    INTERFACE = link.name;
                    "{}: the hand-off is attached to {} as well", link.name, vlan.name
                );
            }
        }
        let hop_limit = sysctl::hop_limit(&link.name)?;
        let metrics = routes::default_metrics(link.index);
        let entry = interfaces::entry(link, &metrics, &self.host.sysctls, hop_limit, addresses);
        interfaces::write(&mut self.maps.interfaces, entry)
    }

    pub(super) fn refresh_interfaces(&mut self, addresses: &HostAddresses) -> Result<()> {
        let names = links::names()?;
        let attached = self.links.held.interfaces(&self.root)?;
        self.links.interfaces.retain(|name| attached.contains(name));
        let mut found = Vec::new();
        self.follow_names(&names)?;
        for name in self.links.interfaces.clone() {
            if !names.contains(&name) {
                if self.links.missing.insert(name.clone()) {
                    log::warn!(INTERFACE = name; "{name} is gone; it is attached again when it comes back");
                }
                continue;
            }
            let link = links::interface(&name)?;
            self.links.missing.remove(&name);
            if found.is_empty() {
                self.host.defaults = defaults(&self.host.sysctls, Some(&link));
            }
            self.refresh_interface(&link, addresses)?;
            found.push(link);
        }
        self.services.judgements.set_interfaces(names_at_ip(&found));
        for name in self.links.take_in(&found) {
            log::info!(INTERFACE = name; "{name}: can be defended again");
        }
        self.links.held.adopt(&self.root)?;
        self.retain_interfaces(&found)
    }

    /// An interface that is called otherwise now is the same one.
    pub(super) fn follow_names(&mut self, names: &[String]) -> Result<()> {
        for name in self.links.interfaces.iter_mut().filter(|name| !names.contains(name)) {
            if let Some(now) = self.links.held.new_name(name)?.filter(|now| names.contains(now)) {
                self.links.held.rename(&self.root, name, &now)?;
                log::warn!(INTERFACE = now; "{name} was renamed to {now} and stays defended");
                *name = now;
            }
        }
        Ok(())
    }

    /// The datapath knows the interfaces that can be defended. What comes by others passes.
    pub(super) fn retain_interfaces(&mut self, links: &[Link]) -> Result<()> {
        let defended = links.iter().filter(|link| link.obstacle().is_none());
        let indices: Vec<u32> = defended.map(|link| link.index).collect();
        interfaces::retain(&mut self.maps.interfaces, &indices)
    }

    pub(super) fn refresh_interface(&mut self, link: &Link, addresses: &HostAddresses) -> Result<()> {
        let mut rollback = Rollback::default();
        // By its own links: those to VLAN devices are new with their device.
        let attached = self.links.held.covers(&Link { vlans: Vec::new(), ..link.clone() })?;
        if !attached && !self.root.is_on_bpffs() {
            // It could not be pinned, which is a warning already.
            return Ok(());
        }
        if !attached {
            self.attach_interface(link, addresses, &mut rollback)?;
        } else if link.obstacle().is_none() {
            self.write_interface(link, addresses, &mut rollback)?;
        }
        rollback.commit();
        Ok(())
    }

    /// Pins again what somebody has removed.
    pub(super) fn keep_pins(&mut self) -> Result<()> {
        let links = self.links.held.keep(&self.root)?;
        let maps = restore::maps(&self.root, &self.programs.ids())?;
        let names: Vec<&str> = links.iter().map(String::as_str).chain(maps).collect();
        if !names.is_empty() {
            log::warn!(
                "another process removed files below {}; restored: {}. To detach: `defender detach`",
                self.root.path().display(),
                names.join(", ")
            );
        }
        Ok(())
    }
}

/// The interfaces that are wanted, and those that are attached already and still there. Who `replaces` a controller waits for
/// the others, as that one did.
pub(super) fn with_those_attached(
    root: &PinRoot,
    mut wanted: Vec<Link>,
    replaces: bool,
) -> Result<Vec<Link>> {
    let names = links::names()?;
    for name in root.interfaces()? {
        if wanted.iter().any(|link| link.name == name) {
            continue;
        }
        if names.contains(&name) {
            log::info!(
                "{name} is already attached and stays attached; `defender detach --iface {name}` detaches it"
            );
            wanted.push(links::interface(&name)?);
        } else if !replaces {
            root.remove_links(&name)?;
        }
    }
    Ok(wanted)
}

/// The interfaces that IP, and so the firewall, sees packets of these links arrive by.
pub(super) fn names_at_ip(links: &[Link]) -> Vec<String> {
    links.iter().flat_map(Link::names_at_ip).collect()
}

pub(super) fn defaults(sysctls: &Sysctls, link: Option<&Link>) -> Defaults {
    let metrics = link.map(|link| routes::default_metrics(link.index)).unwrap_or_default();
    let mss = link.map_or([1460, 1440], |link| interfaces::mss_of(link, &metrics));
    Defaults { rules: WindowRules::from(sysctls), mss, metrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32) -> Link {
        Link {
            name: name.to_owned(),
            index,
            ethernet: true,
            mac: Some([2; 6]),
            speed: Some(1000),
            ..Link::default()
        }
    }

    #[test]
    fn what_cannot_be_defended_is_known_until_it_can() {
        let mut attachment = Attachment::default();
        let port = Link { ethernet: false, ..link("eth1", 3) };
        assert_eq!(attachment.take_in(&[link("eth0", 2), port]), Vec::<String>::new());
        assert_eq!(attachment.hindered.keys().collect::<Vec<_>>(), ["eth1"]);
        assert_eq!(attachment.devices, [2].into());
        assert_eq!(attachment.take_in(&[link("eth0", 2), link("eth1", 3)]), ["eth1"]);
        assert_eq!(attachment.devices, [2, 3].into());
        assert!(attachment.hindered.is_empty() && attachment.link_replies.is_some());
        assert!(attachment.take_in(&[link("eth0", 2), link("eth1", 3)]).is_empty(), "once");
    }
}
