//! This host's own destination addresses, and the broadcast addresses of its subnets.

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
    /// The interface that holds it, or 0 if the route names none. Packets to it are accepted on every
    /// interface.
    pub ifindex: u32,
}

/// What this host's routing tables say about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// See [`local_prefixes`].
    pub local: Vec<LocalPrefix>,
    /// IPv4 addresses with routes of type `broadcast`. The kernel accepts none of them as a source.
    pub broadcast: Vec<LocalPrefix>,
}

impl HostAddresses {
    /// Reads the current tables of the calling thread's network namespace.
    pub fn read() -> Result<Self> {
        Ok(Self {
            local: local_prefixes()?,
            broadcast: prefixes(&[AddressFamily::Inet], RouteType::Broadcast)?,
        })
    }
}

/// All prefixes of routes of type `local`, in any table of the calling thread's network namespace.
/// These are the interfaces' addresses, and those that `ip route add local PREFIX dev lo` (AnyIP) adds.
pub fn local_prefixes() -> Result<Vec<LocalPrefix>> {
    prefixes(&[AddressFamily::Inet, AddressFamily::Inet6], RouteType::Local)
}

fn prefixes(families: &[AddressFamily], kind: RouteType) -> Result<Vec<LocalPrefix>> {
    let mut prefixes = Vec::new();
    for family in families {
        let routes = netlink::snapshot(NETLINK_ROUTE, Checking::Strict, &request(*family, kind))
            .context("cannot list this host's addresses")?;
        prefixes.extend(routes.iter().filter_map(|route| prefix(route, kind)));
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}

/// With strict checking the kernel filters by route type. It then scans a full routing table but does not
/// copy it.
fn request(family: AddressFamily, kind: RouteType) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = kind;
    RouteNetlinkMessage::GetRoute(route)
}

fn prefix(message: &RouteNetlinkMessage, kind: RouteType) -> Option<LocalPrefix> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    if route.header.kind != kind || route.header.flags.contains(RouteFlags::Cloned) {
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
        let (HostAddresses { local: prefixes, broadcast }, index) = in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link set dfnd0 up; ip link set dfnd1 up
                 ip addr add 192.0.2.1/24 dev dfnd0; ip addr add 2001:db8::1/64 dev dfnd0 nodad
                 ip route add local 198.51.100.0/25 dev lo
                 ip route add local 2001:db8:1::/48 dev lo table 77
                 ip route add 203.0.113.0/24 via 192.0.2.2; ip route add blackhole 198.18.0.0/15",
            );
            let index = shell("ip -o link show dfnd0");
            (HostAddresses::read().unwrap(), index.split(':').next().unwrap().parse::<u32>().unwrap())
        });
        let expected = |text: &str, prefix_len, ifindex| LocalPrefix {
            address: text.parse().unwrap(),
            prefix_len,
            ifindex,
        };
        // Older kernels also list a network's first address.
        let last = expected("192.0.2.255", 32, index);
        assert!(broadcast.contains(&last), "{broadcast:?}");
        assert!(broadcast.iter().all(|prefix| prefix.prefix_len == 32 && !prefix.address.is_ipv6()));
        // The kernel assigns link-local addresses itself, with some delay.
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
