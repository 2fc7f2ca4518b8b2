//! One interface: its driver, offloads, and other programs on it.

use defender_common::abi;

use super::Check;
use crate::{
    dataplane::survey::Features,
    host::{
        links::{Link, Master},
        routes,
    },
};

pub(super) fn checks(link: &Link, features: &Features) -> Vec<Check> {
    let mut checks =
        vec![state(link), mode(link), other_programs(link, features), vlans(link), merging(link)];
    if link.obstacle().is_none() {
        checks.extend(link.master.as_ref().map(port));
        checks.extend(routes(link));
    }
    checks.into_iter().map(|check| check.about(link.name.as_str())).collect()
}

/// A challenged client's SYN-ACK has the default route's attributes.
fn routes(link: &Link) -> Option<Check> {
    const NAME: &str = "routes";
    const SHOWN: usize = 3;
    let special = match routes::special(link.index) {
        Ok(special) if special.is_empty() => return None,
        Ok(special) => special,
        Err(error) => return Some(Check::unknown(NAME, format!("{error:#}"), "look at `ip route`")),
    };
    let shown = special.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if special.len() > SHOWN { ", ..." } else { "" };
    let found = format!(
        "routes to some clients have attributes of their own (advmss, mtu, window, initrwnd, hoplimit), \
         which challenged ones are not answered by: {shown}{more}"
    );
    Some(Check::warn(
        NAME,
        found,
        "give the default route these attributes, or set the mode of such services to off",
    ))
}

fn state(link: &Link) -> Check {
    let name = &link.name;
    if let Some(obstacle) = link.obstacle() {
        return Check::fail("interface", obstacle.describe(), obstacle.remedy());
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
    let is_foreign = |id: &u32| !name_of(id).is_some_and(is_ours);
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
    if !features.privileged {
        return Check::unknown(
            NAME,
            format!("a program is attached, and only root may see whose: {}", foreign.join(", ")),
            "run doctor as root (sudo)",
        );
    }
    let advice = format!(
        "detach it first, where it came from; `ip link set {} xdp off` if it is not needed (`bpftool net` shows it)",
        link.name
    );
    Check::fail(NAME, format!("another program is attached: {}", foreign.join(", ")), advice)
}

/// Whether the kernel's name of an XDP program, which it truncates, is one of ours.
fn is_ours(name: &str) -> bool {
    [abi::program::XDP, abi::program::XDP_SKB].iter().any(|ours| ours.get(..15).unwrap_or(ours) == name)
}

/// XDP answers within the frame it received. If the tag was stripped, the SYN-ACK would leave without it.
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
        let advice = format!("check with: ethtool -k {}", link.name);
        return Check::unknown(NAME, "the driver's offloads could not be read", advice);
    }
    Check::ok(NAME, "none in the way")
}

/// For a VRF or similar. A bridge or bond that owns the connections is reported as an obstacle.
fn port(master: &Master) -> Check {
    let Master { name, kind, .. } = master;
    let kind = kind.as_deref().unwrap_or("unknown kind");
    Check::warn(
        "master",
        format!("a port of {name} ({kind}): services must be bound to {name} or accept from it"),
        format!("check that hand-offs succeed (`handoff_failed` in `defender stats`), or use --iface {name}"),
    )
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
    fn real_devices_with_problems_are_reported() {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link add dfndbr type bridge
                 ip link set dfnd0 master dfndbr; ip link set dfndbr up",
            );
            let complaints = |name| complaints(&links::interface(name).unwrap(), &Features::default());
            assert_eq!(complaints("dfnd0"), [("interface", Status::Fail)]);
            assert_eq!(complaints("dfndbr"), [("xdp", Status::Warn)]);
            assert_eq!(complaints("lo"), [("interface", Status::Fail), ("xdp", Status::Warn)]);
        });
    }

    #[test]
    fn vlan_devices_need_their_tags() {
        let vlan = Vlan { index: 9, name: "dfnd0.5".to_owned(), tags: 1, master: None };
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
        let named = |name: &str| Features {
            programs: [(7, name.to_owned())].into(),
            privileged: true,
            ..Features::default()
        };
        assert_eq!(complaints(&link, &named(abi::program::XDP)), []);
        let check = other_programs(&link, &named("xdp_filter"));
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.found, "another program is attached: xdp_filter (id 7, native)");
        let privileged = Features { privileged: true, ..Features::default() };
        let check = other_programs(&link, &privileged);
        assert_eq!((check.status, check.found.contains("of unknown name (id 7")), (Status::Fail, true));
    }

    #[test]
    fn programs_that_this_process_may_not_name_are_nobody_s_yet() {
        let link = Link { xdp: vec![XdpProgram { id: 7, mode: XdpMode::Native }], ..veth() };
        let check = other_programs(&link, &Features::default());
        assert_eq!((check.status, check.found.contains("(id 7, native)")), (Status::Unknown, true));
        assert!(check.advice.is_some_and(|advice| advice.contains("sudo")));
    }

    #[test]
    fn a_bond_is_defended_as_a_whole() {
        let master =
            |kind: &str| Some(Master { index: 9, name: "m0".to_owned(), kind: Some(kind.to_owned()) });
        let complaints = |kind| complaints(&Link { master: master(kind), ..veth() }, &Features::default());
        assert_eq!(complaints("bond"), [("interface", Status::Fail)]);
        assert_eq!(complaints("vrf"), [("master", Status::Warn)]);
    }
}
