//! Links that a controller keeps open so that they outlive their pins. Removing a pin does not detach, and
//! the controller restores it. Only [`detach`](crate::dataplane::detach) detaches.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::{
    dataplane::{
        open_link::{About, OpenLink},
        pins::{Hook, LinkName, PinRoot, rename_file},
    },
    host::links::Link,
};

/// The open links, by pin name.
#[derive(Debug, Default)]
pub struct HeldLinks(BTreeMap<String, OpenLink>);

/// What to do with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is intact, or its device is gone and may return.
    Keep,
    /// Its pin was removed: restore it.
    PinAgain,
    /// It has no pin and cannot have one.
    KeepUnpinned,
    /// It was detached: close it.
    LetGo,
}

/// The state that decides a link's fate.
#[derive(Clone, Copy, Debug)]
struct LinkStatus {
    /// It is attached.
    attached: bool,
    /// Its pin refers to it.
    pinned: bool,
    /// A BPF file system is there to pin it on.
    pinnable: bool,
    /// Its device is gone.
    gone: bool,
}

/// Detaching a link also removes its pin. Without a file system for pins, only the device shows why a link
/// ended.
fn fate(status: LinkStatus) -> Fate {
    match status {
        LinkStatus { pinned: true, .. } => Fate::Keep,
        LinkStatus { attached: false, pinnable: false, gone: true, .. } => Fate::KeepUnpinned,
        LinkStatus { attached: false, .. } => Fate::LetGo,
        LinkStatus { pinnable: true, .. } => Fate::PinAgain,
        LinkStatus { pinnable: false, .. } => Fate::KeepUnpinned,
    }
}

impl HeldLinks {
    /// Opens pinned links below `root` that are not open yet. Another process must not have attached any
    /// there.
    pub fn adopt(&mut self, root: &PinRoot) -> Result<()> {
        for name in root.link_files()? {
            let link = OpenLink::from_pin(&root.link_file(&name))?;
            let id = link.about()?.id;
            let is_held = match self.0.get(&name) {
                Some(held) => held.about()?.id == id,
                None => false,
            };
            if !is_held {
                self.0.insert(name, link);
            }
        }
        Ok(())
    }

    /// Closes links that were detached, and restores removed pins. Returns the names of the restored ones.
    pub fn keep(&mut self, root: &PinRoot) -> Result<Vec<String>> {
        let mut again = Vec::new();
        let pinnable = root.is_on_bpffs();
        let mut let_go = Vec::new();
        for (name, link) in &self.0 {
            match fate(status(root, name, link, pinnable)?) {
                Fate::Keep | Fate::KeepUnpinned => {}
                Fate::LetGo => let_go.push(name.clone()),
                Fate::PinAgain => {
                    root.create_directories()?;
                    link.pin(&root.link_file(name))?;
                    again.push(name.clone());
                }
            }
        }
        self.0.retain(|name, _| !let_go.contains(name));
        Ok(again)
    }

    /// The interfaces with at least one attached link.
    pub fn interfaces(&self, root: &PinRoot) -> Result<BTreeSet<String>> {
        let pinnable = root.is_on_bpffs();
        let mut interfaces = BTreeSet::new();
        for (name, link) in &self.0 {
            if let Some(link_name) = LinkName::from_file_name(name)
                && fate(status(root, name, link, pinnable)?) != Fate::LetGo
            {
                interfaces.insert(link_name.interface);
            }
        }
        Ok(interfaces)
    }

    /// Whether every program of `interface` is attached, including those on VLAN devices.
    pub fn covers(&self, interface: &Link) -> Result<bool> {
        for (name, index) in LinkName::all_of(interface) {
            let Some(link) = self.0.get(&name.to_file_name()) else { return Ok(false) };
            if link.about()?.ifindex != index {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The present name of an attached interface that was called `name`.
    pub fn new_name(&self, name: &str) -> Result<Option<String>> {
        let Some(link) = self.0.get(&LinkName::new(name, Hook::Xdp).to_file_name()) else { return Ok(None) };
        let index = link.about()?.ifindex;
        // 0: the device is gone.
        let now = if_indextoname(index).ok().and_then(|now| now.into_string().ok());
        Ok(now.filter(|now| now != name))
    }

    /// Pins the links of an interface under its new name.
    pub fn rename(&mut self, root: &PinRoot, from: &str, to: &str) -> Result<()> {
        let names: Vec<String> = self.0.keys().cloned().collect();
        let links = names.into_iter().filter_map(|file| Some((LinkName::from_file_name(&file)?, file)));
        for (mut link, file) in links.filter(|(link, _)| link.interface == from).collect::<Vec<_>>() {
            link.interface = to.to_owned();
            rename_file(&root.link_file(&file), &root.link(&link))?;
            let open = self.0.remove(&file);
            self.0.extend(open.map(|open| (link.to_file_name(), open)));
        }
        Ok(())
    }

    /// The open links, to be detached.
    pub fn into_links(self) -> Vec<OpenLink> {
        self.0.into_values().collect()
    }
}

fn status(root: &PinRoot, name: &str, link: &OpenLink, pinnable: bool) -> Result<LinkStatus> {
    let about = link.about()?;
    let pinned = pinnable && pinned_id(root, name) == Some(about.id);
    let gone = LinkName::from_file_name(name).is_some_and(|name| if_nametoindex(name.device()).is_err());
    Ok(LinkStatus { attached: about.is_attached(), pinned, pinnable, gone })
}

/// The number of the link that is pinned under this name.
fn pinned_id(root: &PinRoot, name: &str) -> Option<u32> {
    let link = OpenLink::from_pin(&root.link_file(name)).ok()?;
    link.about().ok().map(|About { id, .. }| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_detaching_closes_a_link() {
        let fate = |attached, pinned, pinnable, gone| fate(LinkStatus { attached, pinned, pinnable, gone });
        for gone in [false, true] {
            assert_eq!(fate(true, true, true, gone), Fate::Keep);
            assert_eq!(fate(false, true, true, gone), Fate::Keep, "its device has gone");
            assert_eq!(fate(true, false, true, gone), Fate::PinAgain);
            assert_eq!(fate(true, false, false, gone), Fate::KeepUnpinned);
            assert_eq!(fate(false, false, true, gone), Fate::LetGo);
        }
        assert_eq!(fate(false, false, false, false), Fate::LetGo);
        assert_eq!(fate(false, false, false, true), Fate::KeepUnpinned);
    }
}
