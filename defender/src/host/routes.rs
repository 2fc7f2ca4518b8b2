//! TCP attributes of the routes to this host's clients (`ip route`: `mtu`, `advmss`, `window`, `initrwnd`,
//! `hoplimit`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{self, Checking};
use crate::model::window::Metrics;

/// Addresses that only a default route, or a very broad one, covers. They are only looked up; nothing is
/// sent there.
const ANYWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(1, 1, 1, 1), Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111));

/// Attributes of the default routes through an interface, `[IPv4, IPv6]`. This asks for the route itself,
/// so it leaves out what the kernel learnt about the path to one peer.
pub fn default_metrics(ifindex: u32) -> [Metrics; 2] {
    let (v4, v6) = ANYWHERE;
    let to_v4 = (AddressFamily::Inet, RouteAddress::Inet(v4), 32);
    let to_v6 = (AddressFamily::Inet6, RouteAddress::Inet6(v6), 128);
    [to_v4, to_v6].map(|to| metrics(request(to, ifindex)).unwrap_or_default())
}

fn request((family, to, bits): (AddressFamily, RouteAddress, u8), ifindex: u32) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.destination_prefix_length = bits;
    route.header.flags = RouteFlags::FibMatch;
    route.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(ifindex)];
    RouteNetlinkMessage::GetRoute(route)
}

/// `None` if there is no such route or it has no attributes.
fn metrics(request: RouteNetlinkMessage) -> Option<Metrics> {
    let answer = netlink::get(NETLINK_ROUTE, request).ok()??;
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    Some(said_by(&route))
}

fn said_by(route: &RouteMessage) -> Metrics {
    let mut found = Metrics::default();
    for attribute in &route.attributes {
        let RouteAttribute::Metrics(metrics) = attribute else { continue };
        for metric in metrics {
            match metric {
                RouteMetric::Mtu(value) => found.mtu = *value,
                RouteMetric::Advmss(value) => found.advertised_mss = *value,
                RouteMetric::Window(value) => found.window = *value,
                RouteMetric::InitRwnd(value) => found.initial_window = *value,
                RouteMetric::Hoplimit(value) => found.hop_limit = *value,
                _ => {}
            }
        }
    }
    found
}

/// Index of each interface that has a default route in the main table, with the families that have one.
pub fn default_interfaces() -> Result<BTreeMap<u32, Vec<&'static str>>> {
    let mut found: BTreeMap<u32, Vec<&'static str>> = BTreeMap::new();
    for (family, name) in [(AddressFamily::Inet, "IPv4"), (AddressFamily::Inet6, "IPv6")] {
        let routes = unicast(family)?;
        for index in routes.iter().filter(|route| is_default(route)).flat_map(devices) {
            let families = found.entry(index).or_default();
            if !families.contains(&name) {
                families.push(name);
            }
        }
    }
    Ok(found)
}

fn is_default(route: &RouteMessage) -> bool {
    let main = RouteHeader::RT_TABLE_MAIN;
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    route.header.destination_prefix_length == 0
        && table.unwrap_or(route.header.table.into()) == u32::from(main)
}

/// The interfaces that a route leads to: one, or that of each next hop.
fn devices(route: &RouteMessage) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

/// All unicast routes of a family.
fn unicast(family: AddressFamily) -> Result<Vec<RouteMessage>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.kind = RouteType::Unicast;
    let request = RouteNetlinkMessage::GetRoute(request);
    let answers =
        netlink::snapshot(NETLINK_ROUTE, Checking::Strict, &request).context("cannot list routes")?;
    let route = |answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(route).collect())
}

/// Non-default routes through an interface that have attributes of their own, as `PREFIX/LENGTH`. This
/// lists all routes, of which there may be many.
pub fn special(ifindex: u32) -> Result<Vec<String>> {
    let mut special = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        special.extend(unicast(family)?.iter().filter_map(|route| special_prefix(route, ifindex)));
    }
    Ok(special)
}

fn special_prefix(route: &RouteMessage, ifindex: u32) -> Option<String> {
    let length = route.header.destination_prefix_length;
    let is_by = route.attributes.contains(&RouteAttribute::Oif(ifindex));
    let is_learnt = route.header.flags.contains(RouteFlags::Cloned);
    if length == 0 || !is_by || is_learnt || said_by(route) == Metrics::default() {
        return None;
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
            _ => None,
        })
        .map(|destination| format!("{destination}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_namespace, shell};
    use super::*;

    fn of(interface: &str) -> [Metrics; 2] {
        default_metrics(nix::net::if_::if_nametoindex(interface).unwrap())
    }

    #[test]
    fn interfaces_with_a_default_route_are_found_in_the_main_table() {
        in_namespace(|| {
            shell(
                "for end in 0 1 2 3; do
                   ip link add dfnd$end type veth peer name dfnp$end; ip link set dfnd$end up; ip link set dfnp$end up
                   ip addr add 192.0.2.1$end/29 dev dfnd$end; ip addr add 2001:db8:$end::1/64 dev dfnd$end nodad
                 done",
            );
            let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
            assert!(default_interfaces().unwrap().is_empty());
            shell(
                "ip route add default nexthop via 192.0.2.9 dev dfnd0 onlink nexthop via 192.0.2.9 dev dfnd1 onlink
                 ip -6 route add default via 2001:db8:0::2 dev dfnd0
                 ip route add default dev dfnd2 table 100
                 ip route add 198.51.100.0/24 dev dfnd3",
            );
            let expected =
                BTreeMap::from([(index("dfnd0"), vec!["IPv4", "IPv6"]), (index("dfnd1"), vec!["IPv4"])]);
            assert_eq!(default_interfaces().unwrap(), expected);
        });
    }

    #[test]
    fn default_routes_are_read_by_interface_and_family() {
        in_namespace(|| {
            shell(
                "for end in 0 1; do
                   ip link add dfnd$end type veth peer name dfnp$end; ip link set dfnd$end up; ip link set dfnp$end up
                   ip addr add 192.0.2.1$end/29 dev dfnd$end; ip addr add 2001:db8:$end::1/64 dev dfnd$end nodad
                 done
                 ip route add default via 192.0.2.9 dev dfnd0 onlink advmss 1300 window 20000 initrwnd 4 hoplimit 77
                 ip -6 route add default via 2001:db8:0::2 dev dfnd0 mtu 1400",
            );
            let [v4, v6] = of("dfnd0");
            let expected =
                Metrics { mtu: 0, advertised_mss: 1300, window: 20_000, initial_window: 4, hop_limit: 77 };
            shell(
                "ip route add 198.51.100.0/24 via 192.0.2.9 dev dfnd0 onlink advmss 1000
                   ip route add 203.0.113.0/24 via 192.0.2.9 dev dfnd0 onlink",
            );
            let index = nix::net::if_::if_nametoindex("dfnd0").unwrap();
            assert_eq!(special(index).unwrap(), ["198.51.100.0/24"]);
            assert_eq!((v4, v6), (expected, Metrics { mtu: 1400, ..Metrics::default() }));
            assert_eq!(of("dfnd1"), [Metrics::default(); 2]);
        });
    }
}
