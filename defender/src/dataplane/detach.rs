//! Detaches links in the kernel first, so that other open descriptors cannot keep them alive. Then removes
//! the pins.

use std::fs;

use anyhow::Result;

use crate::dataplane::{
    open_link::{LinkKind, OpenLink},
    pins::{LinkName, PinRoot},
};

/// Detaches everything pinned below `root` and the `held` links, which may have lost their pins. Removes
/// all pins.
pub fn everything(root: &PinRoot, held: Vec<OpenLink>) -> Result<()> {
    let mut links = held;
    for name in root.link_files()? {
        // Whatever cannot be opened is not one of our links. It is removed with the rest.
        links.extend(OpenLink::from_pin(&root.link_file(&name)).ok());
    }
    in_kernel(&links)?;
    root.remove_all()
}

/// Detaches one interface.
pub fn interface(root: &PinRoot, interface: &str) -> Result<()> {
    let names: Vec<LinkName> = root.links()?.into_iter().filter(|link| link.interface == interface).collect();
    let links: Vec<OpenLink> = names.iter().flat_map(|name| OpenLink::from_pin(&root.link(name))).collect();
    in_kernel(&links)?;
    root.remove_links(interface)
}

/// Detaches XDP first, since the other programs must still take over what it accepted. Links without a
/// device end with their last descriptor.
fn in_kernel(links: &[OpenLink]) -> Result<()> {
    let mut ordered = Vec::new();
    for link in links {
        let about = link.about()?;
        if about.kind != LinkKind::Other && about.ifindex != 0 {
            ordered.push((about.kind, link));
        }
    }
    ordered.sort_by_key(|(kind, _)| *kind);
    ordered.into_iter().try_for_each(|(_, link)| link.detach())
}

/// The links to devices that process `pid` has open.
pub fn links_of(pid: u32) -> Vec<OpenLink> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Vec::new() };
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| device_link(&text)).filter_map(OpenLink::from_id).collect()
}

/// The link's number, from the kernel's text about a descriptor, if the link is attached to a device.
fn device_link(text: &str) -> Option<u32> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    matches!(field("link_type")?, "xdp" | "tcx").then(|| field("link_id")?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_devices_differ_from_others() {
        let text = "pos:\t0\nlink_type:\txdp\nlink_id:\t12\nprog_id:\t34\nifindex:\t5\n";
        assert_eq!(device_link(text), Some(12));
        assert_eq!(device_link(&text.replace("xdp", "tcx")), Some(12));
        assert_eq!(device_link(&text.replace("xdp", "tracing")), None);
        assert_eq!(device_link("pos:\t0\nflags:\t02\n"), None);
    }
}
