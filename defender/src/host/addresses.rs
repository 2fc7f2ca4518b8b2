//! Which destination addresses are this host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{self, Checking};

/// A prefix of addresses that the kernel delivers to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalPrefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits count: up to 32 or 128.
    pub prefix_len: u8,
    /// The interface that holds it, 0 if the route names none; addresses are the host's on every interface.
    pub ifindex: u32,
}

/// All prefixes that routes of type `local` cover, in any table, in the calling thread's network namespace: the
/// addresses of interfaces, and what `ip route add local PREFIX dev lo` (AnyIP) adds.
pub fn local_prefixes() -> Result<Vec<LocalPrefix>> {
    let mut prefixes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = netlink::snapshot(NETLINK_ROUTE, Checking::Strict, &request(family))
            .context("cannot list this host's addresses")?;
        prefixes.extend(routes.iter().filter_map(local_prefix));
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}

/// With strict checking the kernel filters by the type: a full routing table is walked, but not copied.
fn request(family: AddressFamily) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = RouteType::Local;
    RouteNetlinkMessage::GetRoute(route)
}

fn local_prefix(message: &RouteNetlinkMessage) -> Option<LocalPrefix> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    if route.header.kind != RouteType::Local || route.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut address = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut ifindex = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = (*v4).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = (*v6).into(),
            RouteAttribute::Oif(index) => ifindex = *index,
            _ => {}
        }
    }
    Some(LocalPrefix { address, prefix_len: route.header.destination_prefix_length, ifindex })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_namespace, shell};
    use super::*;

    #[test]
    fn local_prefixes_are_the_local_routes_of_every_table() {
        let (prefixes, index) = in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link set dfnd0 up; ip link set dfnd1 up
                 ip addr add 192.0.2.1/24 dev dfnd0; ip addr add 2001:db8::1/64 dev dfnd0 nodad
                 ip route add local 198.51.100.0/25 dev lo
                 ip route add local 2001:db8:1::/48 dev lo table 77
                 ip route add 203.0.113.0/24 via 192.0.2.2; ip route add blackhole 198.18.0.0/15",
            );
            let index = shell("ip -o link show dfnd0");
            (local_prefixes().unwrap(), index.split(':').next().unwrap().parse::<u32>().unwrap())
        });
        let expected = |text: &str, prefix_len, ifindex| LocalPrefix {
            address: text.parse().unwrap(),
            prefix_len,
            ifindex,
        };
        // The kernel gives such addresses to interfaces itself, when it gets round to it.
        let (_link_local, rest): (Vec<_>, Vec<_>) = prefixes
            .into_iter()
            .partition(|prefix| matches!(prefix.address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
        assert_eq!(
            rest,
            [
                expected("127.0.0.0", 8, 1),
                expected("127.0.0.1", 32, 1),
                expected("192.0.2.1", 32, index),
                expected("198.51.100.0", 25, 1),
                expected("::1", 128, 1),
                expected("2001:db8::1", 128, index),
                expected("2001:db8:1::", 48, 1),
            ]
        );
    }
}
