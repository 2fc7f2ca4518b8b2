//! Network interfaces, as far as a program at the NIC depends on them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{self, Checking};
use super::{ethtool, netdev};

/// Drivers that deliver frames of a TCP stack on this machine, or on its host. The checksum field of such
/// frames holds only the pseudo-header sum (`CHECKSUM_PARTIAL`), which the sending hardware would have
/// completed.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its frames have Ethernet headers.
    pub ethernet: bool,
    /// Its Ethernet address; `None` for a device without one.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
    /// Kind of a virtual device: `veth`, `vlan`, `bridge`, …; `None` for hardware.
    pub kind: Option<String>,
    /// The driver's name.
    pub driver: Option<String>,
    /// The bridge, bond, VRF or similar device that it is a port of.
    pub master: Option<Master>,
    /// VLAN devices on it, and on those, in the same network namespace.
    pub vlans: Vec<Vlan>,
    /// The XDP programs that run on it.
    pub xdp: Vec<XdpProgram>,
    /// Whether the driver runs XDP programs itself. `None` if the kernel does not report it (before 6.3).
    pub native_xdp: Option<bool>,
    /// Frames may arrive whose TCP checksum holds only the pseudo-header sum.
    pub partial_checksums: bool,
    /// Its speed in Mbit/s, if known.
    pub speed: Option<u32>,
    /// The NIC strips VLAN tags before XDP sees the frame. `None` if unknown.
    pub rx_vlan_offload: Option<bool>,
    /// The NIC or driver merges segments (large receive offload). XDP refuses or breaks this. `None` if
    /// unknown.
    pub lro: Option<bool>,
    /// The NIC merges segments reversibly. Drivers refuse XDP with it. `None` if unknown.
    pub gro_hw: Option<bool>,
}

/// The device that an interface is a port of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind: `bridge`, `bond`, `vrf`, …
    pub kind: Option<String>,
}

/// Why an interface cannot be defended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Its frames have no Ethernet headers, or have none from a peer: no SYN-ACK could be sent back.
    NoEthernet,
    /// It is a port of a bridge, bond or similar device of this kind, which owns the connections.
    Port(Master, &'static str),
}

/// Kinds of devices whose ports have no connections of their own. Ports of a VRF do.
const MASTERS: [&str; 4] = ["bridge", "openvswitch", "bond", "team"];

impl Link {
    /// Why it cannot be defended, if it cannot.
    pub fn obstacle(&self) -> Option<Obstacle> {
        if !self.ethernet || self.mac.is_none() {
            return Some(Obstacle::NoEthernet);
        }
        let master = self.master.as_ref()?;
        let kind = MASTERS.into_iter().find(|kind| master.kind.as_deref() == Some(*kind))?;
        Some(Obstacle::Port(master.clone(), kind))
    }
}

impl Obstacle {
    /// States the obstacle.
    pub fn describe(&self) -> String {
        match self {
            Self::NoEthernet => "its frames have no Ethernet headers (as with lo, tun, PPP and WireGuard), so that no SYN can be answered from there"
                .to_owned(),
            Self::Port(master, kind) => {
                format!("it is a port of {kind} {}, which its connections belong to", master.name)
            }
        }
    }

    /// What to do, as the rest of a sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoEthernet => "defend the interface that clients come by".to_owned(),
            Self::Port(master, "openvswitch") => {
                format!(
                    "defend the bridge's own interface, which has this host's addresses (not {})",
                    master.name
                )
            }
            Self::Port(master, _) => format!("defend {0} as a whole: --iface {0}", master.name),
        }
    }
}

/// A VLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Tags on its frames at the interface below: 1, or 2 for a VLAN device on a VLAN device.
    pub tags: u8,
    /// The device that it is a port of.
    pub master: Option<Master>,
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
    /// After the driver. Works on every kernel and device, but is slower.
    Generic,
    /// In the NIC.
    Offloaded,
}

impl Link {
    /// The interface names that the IP layer sees for its packets: its master's, or its own and those of
    /// its VLAN devices.
    pub fn names_at_ip(&self) -> Vec<String> {
        let own = self.master.as_ref().map_or(&self.name, |master| &master.name);
        [own].into_iter().chain(self.vlans.iter().map(|vlan| &vlan.name)).cloned().collect()
    }

    /// Indices of devices that a socket may be bound to and still receive this link's packets: the link,
    /// its VLAN devices, and the VRFs that these are ports of.
    pub fn indices_at_ip(&self) -> impl Iterator<Item = u32> {
        let own = (self.index, &self.master);
        let all = [own].into_iter().chain(self.vlans.iter().map(|vlan| (vlan.index, &vlan.master)));
        all.flat_map(|(index, master)| {
            let vrf = master.as_ref().filter(|master| master.kind.as_deref() == Some("vrf"));
            [Some(index), vrf.map(|vrf| vrf.index)].into_iter().flatten()
        })
    }
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

/// The name of the interface with this index, if there is one.
pub fn name_by_index(index: u32) -> Result<Option<String>> {
    Ok(all()?.iter().find(|link| link.header.index == index).map(|link| name_of(link).to_owned()))
}

/// The interface called `name`, in the calling thread's network namespace.
pub fn interface(name: &str) -> Result<Link> {
    let links = all()?;
    let Some(mut link) = describe(name, &links) else {
        let names: Vec<&str> = links.iter().map(name_of).collect();
        bail!("unknown interface {name}; expected one of {}", names.join(", "));
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

/// Index and name of devices that never receive external packets: loopback and dummies.
pub fn silent() -> Result<Vec<(u32, String)>> {
    let is_silent = |link: &&LinkMessage| {
        link.header.flags.contains(LinkFlags::Loopback) || kind_of(link).as_deref() == Some("dummy")
    };
    Ok(all()?.iter().filter(is_silent).map(|link| (link.header.index, name_of(link).to_owned())).collect())
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

/// What netlink reports about the interface called `name`.
fn describe(name: &str, links: &[LinkMessage]) -> Option<Link> {
    let message = links.iter().find(|link| name_of(link) == name)?;
    let mut link = Link {
        index: message.header.index,
        name: name.to_owned(),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
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

/// An Ethernet address. The loopback device has an all-zero one, which receives no frames.
fn mac(address: &[u8]) -> Option<[u8; 6]> {
    address.try_into().ok().filter(|mac| *mac != [0; 6])
}

fn master(index: u32, links: &[LinkMessage]) -> Option<Master> {
    let link = links.iter().find(|link| link.header.index == index)?;
    Some(Master { index, name: name_of(link).to_owned(), kind: kind_of(link) })
}

fn vlans_on(index: u32, tags: u8, links: &[LinkMessage]) -> Vec<Vlan> {
    // The kernel nests at most eight deep. Frames with three or more tags are not answered.
    if tags > 2 {
        return Vec::new();
    }
    let mut vlans = Vec::new();
    for link in links.iter().filter(|link| is_vlan_on(link, index)) {
        let master = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => master(*index, links),
            _ => None,
        });
        vlans.push(Vlan { index: link.header.index, name: name_of(link).to_owned(), tags, master });
        vlans.extend(vlans_on(link.header.index, tags + 1, links));
    }
    vlans
}

fn is_vlan_on(link: &LinkMessage, index: u32) -> bool {
    // The lower device's index is meaningless here if that device is in another namespace.
    let elsewhere = link.attributes.iter().any(|it| matches!(it, LinkAttribute::LinkNetNsId(_)));
    let below = link.attributes.iter().any(|it| matches!(it, LinkAttribute::Link(below) if *below == index));
    below && !elsewhere && kind_of(link) == Some(InfoKind::Vlan.to_string())
}

/// For one program the kernel reports mode and id. For several it reports one id per mode.
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

/// Kernels before 4.19 report a single program's id in one attribute only.
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

/// Devices that a listener may be bound to and still receive packets of these defended interfaces.
pub fn devices(links: &[Link]) -> BTreeSet<u32> {
    let defended = links.iter().filter(|link| link.obstacle().is_none());
    defended.flat_map(Link::indices_at_ip).collect()
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
                    ethernet: true,
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
    fn obstacles_are_reported_only_where_there_are_some() {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link add dfndbr type bridge
                 ip link set dfnd0 master dfndbr; ip link add link dfnd1 name dfndmv type macvlan
                 ip tuntap add dfndtun mode tun; ip tuntap add dfndtap mode tap",
            );
            let obstacle = |name: &str| interface(name).unwrap().obstacle();
            assert_eq!(["dfnd1", "dfndbr", "dfndmv", "dfndtap"].map(obstacle), [const { None }; 4]);
            assert_eq!(["lo", "dfndtun"].map(obstacle), [const { Some(Obstacle::NoEthernet) }; 2]);
            let port = obstacle("dfnd0").expect("an obstacle");
            assert_eq!(port.describe(), "it is a port of bridge dfndbr, which its connections belong to");
            assert_eq!(port.remedy(), "defend dfndbr as a whole: --iface dfndbr");
        });
        let link = |kind: &str| {
            let master = Master { index: 9, name: "m0".to_owned(), kind: Some(kind.to_owned()) };
            let mut link = in_namespace(|| {
                shell("ip link add dfnd0 type veth peer name dfnd1");
                interface("dfnd0").unwrap()
            });
            link.master = Some(master);
            link.obstacle().map(|obstacle| obstacle.remedy())
        };
        assert_eq!(link("bond").as_deref(), Some("defend m0 as a whole: --iface m0"));
        assert!(link("openvswitch").is_some_and(|remedy| remedy.contains("not m0")));
        assert_eq!(link("vrf"), None);
    }

    #[test]
    fn a_missing_interface_is_named_along_with_those_there_are() {
        in_namespace(|| {
            shell("ip link add dfnd0 type veth peer name dfnd1");
            let error = interface("eth7").unwrap_err().to_string();
            assert_eq!(error, "unknown interface eth7; expected one of lo, dfnd1, dfnd0");
            assert_eq!(names().unwrap(), ["lo", "dfnd1", "dfnd0"]);
            assert!(interface("a-name-that-is-too-long").is_err());
        });
    }

    /// A VLAN device as netlink lists it. The machine that runs the test may have none.
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
            master: None,
        });
        assert_eq!(describe("eth0", &links).unwrap().vlans, expected);
    }

    #[test]
    fn sockets_are_reached_by_a_device_its_vlans_and_their_vrfs() {
        let kind = |kind: &str| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::from(kind))]);
        let links = [
            link(2, "eth0", &[LinkAttribute::Controller(5)]),
            link(3, "eth0.5", &[LinkAttribute::Link(2), kind("vlan"), LinkAttribute::Controller(6)]),
            link(4, "eth0.6", &[LinkAttribute::Link(2), kind("vlan"), LinkAttribute::Controller(7)]),
            link(5, "red", &[kind("vrf")]),
            link(6, "blue", &[kind("vrf")]),
            link(7, "br0", &[kind("bridge")]),
        ];
        let reached: Vec<u32> = describe("eth0", &links).unwrap().indices_at_ip().collect();
        assert_eq!(reached, [2, 5, 3, 6, 4]);
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
