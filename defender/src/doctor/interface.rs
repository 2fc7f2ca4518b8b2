//! One interface: its driver, its offloads, what else is on it.

use defender_common::abi;

use super::{Check, Features};
use crate::host::links::{Link, Master};

pub(super) fn checks(link: &Link, features: &Features) -> Vec<Check> {
    let mut checks =
        vec![state(link), mode(link), other_programs(link, features), vlans(link), merging(link)];
    checks.extend(link.master.as_ref().map(port));
    checks.into_iter().map(|check| check.about(link.name.as_str())).collect()
}

fn state(link: &Link) -> Check {
    let name = &link.name;
    if link.mac.is_none() {
        let found = "has no Ethernet address: nothing that arrives by it is answered";
        return Check::fail("interface", found, "defend the interface that clients come by");
    }
    if link.up {
        Check::ok("interface", format!("up, MTU {}", link.mtu))
    } else {
        Check::warn("interface", "switched off", format!("ip link set {name} up"))
    }
}

fn mode(link: &Link) -> Check {
    let driver = link.driver.as_deref().or(link.kind.as_deref()).unwrap_or("without a name");
    match link.native_xdp {
        Some(true) => Check::ok("xdp", format!("native: driver {driver} runs XDP programs itself")),
        Some(false) => Check::warn(
            "xdp",
            format!(
                "generic: driver {driver} runs no XDP programs, so that the kernel does, and more slowly"
            ),
            "for more packets a second, use a NIC whose driver has native XDP",
        ),
        None => Check::unknown(
            "xdp",
            format!("driver {driver}; this kernel does not tell whether it runs XDP programs"),
            "attach and see: `defender status` says native or generic",
        ),
    }
}

fn other_programs(link: &Link, features: &Features) -> Check {
    const NAME: &str = "other xdp";
    let name_of = |id: &u32| features.programs.get(id).map(String::as_str);
    let is_foreign = |id: &u32| name_of(id) != Some(abi::program::XDP);
    let foreign: Vec<String> = link
        .xdp
        .iter()
        .filter(|program| is_foreign(&program.id))
        .map(|program| {
            let name = name_of(&program.id).unwrap_or("of unknown name");
            format!("{name} (id {}, {})", program.id, program.mode.name())
        })
        .collect();
    if foreign.is_empty() {
        return Check::ok(NAME, if link.xdp.is_empty() { "none" } else { "none but defender's own" });
    }
    let advice = format!(
        "detach it first, where it came from; `ip link set {} xdp off` if nobody wants it (bpftool net shows it)",
        link.name
    );
    Check::fail(NAME, format!("someone else's program is there: {}", foreign.join(", ")), advice)
}

/// XDP answers in the frame it sees: with the tag taken off, the SYN-ACK would leave without it.
fn vlans(link: &Link) -> Check {
    const NAME: &str = "vlan";
    if link.vlans.is_empty() {
        return Check::ok(NAME, "no VLAN devices on it");
    }
    let names: Vec<&str> = link.vlans.iter().map(|vlan| vlan.name.as_str()).collect();
    let names = names.join(", ");
    let advice = format!("ethtool -K {} rxvlan off", link.name);
    match link.rx_vlan_offload {
        Some(false) => Check::ok(NAME, format!("XDP sees the tags of {names}")),
        Some(true) => {
            let found = format!("the NIC takes tags off before XDP sees them, and {names} depend on them");
            Check::fail(NAME, found, advice)
        }
        None => {
            Check::unknown(NAME, format!("whether XDP sees the tags of {names} could not be read"), advice)
        }
    }
}

fn merging(link: &Link) -> Check {
    const NAME: &str = "offloads";
    let on = [("LRO", "lro", link.lro), ("hardware GRO", "rx-gro-hw", link.gro_hw)]
        .into_iter()
        .filter(|(_, _, on)| *on == Some(true));
    let (names, switches): (Vec<_>, Vec<_>) =
        on.map(|(name, switch, _)| (name, format!("{switch} off"))).unzip();
    if !names.is_empty() {
        let found = format!("{} is on: drivers refuse XDP with it, or switch it off", names.join(" and "));
        return Check::warn(NAME, found, format!("ethtool -K {} {}", link.name, switches.join(" ")));
    }
    if link.lro.is_none() {
        let advice = format!("look yourself: ethtool -k {}", link.name);
        return Check::unknown(NAME, "the driver's offloads could not be read", advice);
    }
    Check::ok(NAME, "none in the way")
}

fn port(master: &Master) -> Check {
    let Master { name, kind, .. } = master;
    let kind = kind.as_deref().unwrap_or("unknown kind");
    match kind {
        "bridge" => Check::warn(
            kind_name(kind),
            format!("a port of bridge {name}: only SYNs to the port's own MAC address are challenged"),
            format!("defend what holds this host's addresses: --iface {name} (generic mode)"),
        ),
        "bond" | "team" => Check::fail(
            kind_name(kind),
            format!("a port of {kind} {name}: connections belong to {name}"),
            format!("defend {name} as a whole: --iface {name}"),
        ),
        _ => Check::warn(
            kind_name(kind),
            format!("a port of {name} ({kind}): services must be bound to {name} or accept from it"),
            format!(
                "see that hand-offs succeed: `defender stats` counts handoff_failed; or use --iface {name}"
            ),
        ),
    }
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "bridge" => "bridge",
        "bond" | "team" => "bond",
        _ => "master",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::host::links::{self, Vlan, XdpMode, XdpProgram};
    use crate::host::testing::{in_namespace, shell};

    fn complaints(link: &Link, features: &Features) -> Vec<(&'static str, Status)> {
        let checks = checks(link, features);
        assert!(checks.iter().all(|check| check.subject.as_ref() == Some(&link.name)));
        checks.iter().filter(|it| it.status != Status::Ok).map(|check| (check.name, check.status)).collect()
    }

    fn veth() -> Link {
        in_namespace(|| {
            shell("ip link add dfnd0 type veth peer name dfnd1; ip link set dfnd0 up");
            links::interface("dfnd0").unwrap()
        })
    }

    #[test]
    fn a_veth_is_fine() {
        assert_eq!(complaints(&veth(), &Features::default()), []);
    }

    #[test]
    fn real_devices_that_are_not_fine_are_told() {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link add dfndbr type bridge
                 ip link set dfnd0 master dfndbr; ip link set dfndbr up",
            );
            let complaints = |name| complaints(&links::interface(name).unwrap(), &Features::default());
            assert_eq!(complaints("dfnd0"), [("interface", Status::Warn), ("bridge", Status::Warn)]);
            assert_eq!(complaints("dfndbr"), [("xdp", Status::Warn)]);
            assert_eq!(complaints("lo"), [("interface", Status::Fail), ("xdp", Status::Warn)]);
        });
    }

    #[test]
    fn vlan_devices_need_their_tags() {
        let vlan = Vlan { index: 9, name: "dfnd0.5".to_owned(), tags: 1 };
        let mut link = Link { vlans: vec![vlan], ..veth() };
        assert_eq!(complaints(&link, &Features::default()), [("vlan", Status::Fail)]);
        link.rx_vlan_offload = Some(false);
        assert_eq!(complaints(&link, &Features::default()), []);
        link.rx_vlan_offload = None;
        assert_eq!(complaints(&link, &Features::default()), [("vlan", Status::Unknown)]);
    }

    #[test]
    fn merging_offloads_are_named_with_what_switches_them_off() {
        let link = Link { lro: Some(true), gro_hw: Some(true), ..veth() };
        let check = merging(&link);
        assert_eq!(check.status, Status::Warn);
        assert_eq!(check.advice.as_deref(), Some("ethtool -K dfnd0 lro off rx-gro-hw off"));
        assert_eq!(merging(&Link { lro: None, ..veth() }).status, Status::Unknown);
    }

    #[test]
    fn programs_of_others_are_named_and_our_own_are_not() {
        let link = Link { xdp: vec![XdpProgram { id: 7, mode: XdpMode::Native }], ..veth() };
        let named = |name: &str| Features { programs: [(7, name.to_owned())].into(), ..Features::default() };
        assert_eq!(complaints(&link, &named(abi::program::XDP)), []);
        let check = other_programs(&link, &named("xdp_filter"));
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.found, "someone else's program is there: xdp_filter (id 7, native)");
        assert!(other_programs(&link, &Features::default()).found.contains("of unknown name (id 7"));
    }

    #[test]
    fn a_bond_is_defended_as_a_whole() {
        let master =
            |kind: &str| Some(Master { index: 9, name: "m0".to_owned(), kind: Some(kind.to_owned()) });
        let complaints = |kind| complaints(&Link { master: master(kind), ..veth() }, &Features::default());
        assert_eq!(complaints("bond"), [("bond", Status::Fail)]);
        assert_eq!(complaints("vrf"), [("master", Status::Warn)]);
    }
}
