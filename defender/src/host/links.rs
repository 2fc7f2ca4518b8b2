//! Network interfaces, as far as a program at the NIC needs to know them.

use anyhow::{Context, Result, bail};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{self, Checking};
use super::{ethtool, netdev};

/// Drivers that hand on frames of a TCP stack on this machine (or of the machine's host), whose checksum field holds
/// the pseudo-header sum alone (`CHECKSUM_PARTIAL`): the hardware at the far end would have filled it in.
const PARTIAL_CHECKSUM_DRIVERS: [&str; 11] = [
    "bridge",
    "dummy",
    "ifb",
    "ipvlan",
    "macvlan",
    "netkit",
    "tun",
    "veth",
    "vif",
    "virtio_net",
    "xen_netfront",
];

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` for a device without one.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
    /// What a virtual device is: `veth`, `vlan`, `bridge`, …; `None` for hardware.
    pub kind: Option<String>,
    /// The driver's name.
    pub driver: Option<String>,
    /// The bridge, bond, VRF or the like that it is a port of.
    pub master: Option<Master>,
    /// VLAN devices on it, and on those, in the same network namespace.
    pub vlans: Vec<Vlan>,
    /// The XDP programs that run on it.
    pub xdp: Vec<XdpProgram>,
    /// Whether the driver runs XDP programs itself; `None`: the kernel does not tell (before 6.3).
    pub native_xdp: Option<bool>,
    /// Frames may come whose TCP checksum holds the pseudo-header sum alone.
    pub partial_checksums: bool,
    /// Its speed in Mbit/s; `None`: unknown.
    pub speed: Option<u32>,
    /// The NIC takes VLAN tags off before XDP sees the frame; `None`: unknown.
    pub rx_vlan_offload: Option<bool>,
    /// The NIC or driver merges segments (large receive offload); XDP refuses or breaks it. `None`: unknown.
    pub lro: Option<bool>,
    /// The NIC merges segments in a way that can be undone; drivers refuse XDP with it. `None`: unknown.
    pub gro_hw: Option<bool>,
}

/// What an interface is a port of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is: `bridge`, `bond`, `vrf`, …
    pub kind: Option<String>,
}

/// A VLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// How many tags its frames carry on the interface below: 1, or 2 for a VLAN device on a VLAN device.
    pub tags: u8,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// The program's id, as bpftool lists it.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// After the driver, on every kernel and device, and slower.
    Generic,
    /// In the NIC.
    Offloaded,
}

impl XdpMode {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// The names of all interfaces of the calling thread's network namespace.
pub fn names() -> Result<Vec<String>> {
    Ok(all()?.iter().map(|link| name_of(link).to_owned()).collect())
}

/// The interface called `name`, in the calling thread's network namespace.
pub fn interface(name: &str) -> Result<Link> {
    let links = all()?;
    let Some(mut link) = describe(name, &links) else {
        let names: Vec<&str> = links.iter().map(name_of).collect();
        bail!("there is no interface {name} here; there are: {}", names.join(", "));
    };
    link.driver = ethtool::driver(name)?.or(link.driver);
    link.partial_checksums |= [&link.driver, &link.kind]
        .into_iter()
        .flatten()
        .any(|name| PARTIAL_CHECKSUM_DRIVERS.contains(&name.as_str()));
    link.speed = ethtool::speed(name);
    link.native_xdp = netdev::native_xdp(link.index)?;
    if let Ok(active) = ethtool::active_features(name) {
        let is_active = |feature: &str| Some(active.iter().any(|name| name == feature));
        link.rx_vlan_offload = is_active("rx-vlan-hw-parse");
        link.lro = is_active("rx-lro");
        link.gro_hw = is_active("rx-gro-hw");
    }
    Ok(link)
}

fn all() -> Result<Vec<LinkMessage>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = netlink::snapshot(NETLINK_ROUTE, Checking::Lenient, &RouteNetlinkMessage::GetLink(request))
        .context("cannot list network interfaces")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .collect())
}

/// What netlink says of the interface called `name`.
fn describe(name: &str, links: &[LinkMessage]) -> Option<Link> {
    let message = links.iter().find(|link| name_of(link) == name)?;
    let mut link = Link {
        index: message.header.index,
        name: name.to_owned(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: kind_of(message),
        driver: None,
        master: None,
        vlans: Vec::new(),
        xdp: Vec::new(),
        native_xdp: None,
        partial_checksums: message.header.flags.contains(LinkFlags::Loopback),
        speed: None,
        rx_vlan_offload: None,
        lro: None,
        gro_hw: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(address) => link.mac = mac(address),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = master(*index, links),
            LinkAttribute::Xdp(xdp) => link.xdp = programs(xdp),
            _ => {}
        }
    }
    link.vlans = vlans_on(link.index, 1, links);
    Some(link)
}

fn name_of(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn kind_of(link: &LinkMessage) -> Option<String> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos?.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// An Ethernet address. The loopback device has one of zeros, which no frame is sent to.
fn mac(address: &[u8]) -> Option<[u8; 6]> {
    address.try_into().ok().filter(|mac| *mac != [0; 6])
}

fn master(index: u32, links: &[LinkMessage]) -> Option<Master> {
    let link = links.iter().find(|link| link.header.index == index)?;
    Some(Master { index, name: name_of(link).to_owned(), kind: kind_of(link) })
}

fn vlans_on(index: u32, tags: u8, links: &[LinkMessage]) -> Vec<Vlan> {
    // The kernel nests at most eight deep; three tags and more are not answered anyway.
    if tags > 2 {
        return Vec::new();
    }
    let mut vlans = Vec::new();
    for link in links.iter().filter(|link| is_vlan_on(link, index)) {
        vlans.push(Vlan { index: link.header.index, name: name_of(link).to_owned(), tags });
        vlans.extend(vlans_on(link.header.index, tags + 1, links));
    }
    vlans
}

fn is_vlan_on(link: &LinkMessage, index: u32) -> bool {
    // The index of a device below that is in another namespace means nothing in this one.
    let elsewhere = link.attributes.iter().any(|it| matches!(it, LinkAttribute::LinkNetNsId(_)));
    let below = link.attributes.iter().any(|it| matches!(it, LinkAttribute::Link(below) if *below == index));
    below && !elsewhere && kind_of(link) == Some(InfoKind::Vlan.to_string())
}

/// With one program the kernel says where it runs and its id; with several, the id for each place.
fn programs(xdp: &[LinkXdp]) -> Vec<XdpProgram> {
    let mut programs = Vec::new();
    for attribute in xdp {
        let (id, mode) = match attribute {
            LinkXdp::DrvProgId(id) => (*id, XdpMode::Native),
            LinkXdp::SkbProgId(id) => (*id, XdpMode::Generic),
            LinkXdp::HwProgId(id) => (*id, XdpMode::Offloaded),
            _ => continue,
        };
        programs.push(XdpProgram { id, mode });
    }
    if programs.is_empty() { only_program(xdp).into_iter().collect() } else { programs }
}

/// Kernels before 4.19 give the id of a single program in one attribute only.
fn only_program(xdp: &[LinkXdp]) -> Option<XdpProgram> {
    let mode = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Offloaded),
        _ => None,
    })?;
    let id = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(XdpProgram { id, mode })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_namespace, shell};
    use super::*;

    fn index(name: &str) -> u32 {
        shell(&format!("ip -o link show {name}")).split(':').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_veth_is_described_as_ip_and_ethtool_do() {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 address 02:00:00:00:00:01 mtu 1400 type veth peer name dfnd1
                 ip link set dfnd0 up; ethtool -K dfnd0 rxvlan off",
            );
            let link = interface("dfnd0").unwrap();
            assert_eq!(
                link,
                Link {
                    index: index("dfnd0"),
                    name: "dfnd0".to_owned(),
                    mac: Some([2, 0, 0, 0, 0, 1]),
                    mtu: 1400,
                    up: true,
                    kind: Some("veth".to_owned()),
                    driver: Some("veth".to_owned()),
                    master: None,
                    vlans: Vec::new(),
                    xdp: Vec::new(),
                    native_xdp: Some(true),
                    partial_checksums: true,
                    speed: Some(10_000),
                    rx_vlan_offload: Some(false),
                    lro: Some(false),
                    gro_hw: Some(false),
                }
            );
            let other = interface("dfnd1").unwrap();
            assert_eq!((other.up, other.mtu, other.rx_vlan_offload), (false, 1500, Some(true)));
        });
    }

    #[test]
    fn the_loopback_device_has_no_address_to_answer_to() {
        in_namespace(|| {
            let lo = interface("lo").unwrap();
            assert_eq!((lo.index, lo.mac, lo.mtu, lo.kind), (1, None, 65_536, None));
            assert_eq!((lo.native_xdp, lo.partial_checksums), (Some(false), true));
        });
    }

    #[test]
    fn a_bridge_port_names_its_bridge_and_a_macvlan_is_no_vlan() {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link add dfndbr type bridge
                 ip link set dfnd0 master dfndbr; ip link add link dfnd1 name dfndmv type macvlan",
            );
            let bridge =
                Master { index: index("dfndbr"), name: "dfndbr".to_owned(), kind: Some("bridge".to_owned()) };
            assert_eq!(interface("dfnd0").unwrap().master, Some(bridge));
            assert_eq!(interface("dfnd1").unwrap().vlans, []);
            assert_eq!(interface("dfndmv").unwrap().kind.as_deref(), Some("macvlan"));
            assert_eq!(interface("dfndbr").unwrap().native_xdp, Some(false));
        });
    }

    #[test]
    fn a_missing_interface_is_named_along_with_those_there_are() {
        in_namespace(|| {
            shell("ip link add dfnd0 type veth peer name dfnd1");
            let error = interface("eth7").unwrap_err().to_string();
            assert_eq!(error, "there is no interface eth7 here; there are: lo, dfnd1, dfnd0");
            assert_eq!(names().unwrap(), ["lo", "dfnd1", "dfnd0"]);
            assert!(interface("a-name-that-is-too-long").is_err());
        });
    }

    /// A VLAN device as netlink lists it; the machine that runs this may have none.
    fn link(index: u32, name: &str, attributes: &[LinkAttribute]) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.extend_from_slice(attributes);
        link
    }

    #[test]
    fn vlan_devices_are_found_two_deep() {
        let vlan = || LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]);
        let macvlan = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan)]);
        let links = [
            link(2, "eth0", &[]),
            link(3, "eth0.5", &[LinkAttribute::Link(2), vlan()]),
            link(4, "eth0.5.6", &[LinkAttribute::Link(3), vlan()]),
            link(5, "eth0.5.6.7", &[LinkAttribute::Link(4), vlan()]),
            link(6, "mv0", &[LinkAttribute::Link(2), macvlan]),
            link(7, "eth1.5", &[LinkAttribute::Link(8), vlan()]),
            link(9, "guest.5", &[LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0), vlan()]),
        ];
        let expected = [(3, "eth0.5", 1), (4, "eth0.5.6", 2)].map(|(index, name, tags)| Vlan {
            index,
            name: name.to_owned(),
            tags,
        });
        assert_eq!(describe("eth0", &links).unwrap().vlans, expected);
    }

    #[test]
    fn xdp_programs_are_listed_with_their_mode() {
        let native = XdpProgram { id: 7, mode: XdpMode::Native };
        let generic = XdpProgram { id: 8, mode: XdpMode::Generic };
        let driver = LinkXdp::Attached(XdpAttached::Driver);
        let both = LinkXdp::Attached(XdpAttached::Multiple);
        let none = LinkXdp::Attached(XdpAttached::None);
        assert_eq!(programs(&[none]), []);
        assert_eq!(programs(&[driver.clone(), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)]), [native]);
        assert_eq!(programs(&[driver, LinkXdp::ProgId(7)]), [native]);
        assert_eq!(programs(&[both, LinkXdp::DrvProgId(7), LinkXdp::SkbProgId(8)]), [native, generic]);
    }
}
