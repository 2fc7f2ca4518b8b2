//! What the datapath has to know of an interface.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Result, bail};
use defender_common::{
    abi,
    wire::address::{Address as _, V4, V6},
};
use defender_maps::Slots;

use crate::{
    dataplane::maps::Prefix,
    host::{
        addresses::{HostAddresses, LocalPrefix},
        links::Link,
    },
    model::{sysctls::Sysctls, window::Metrics},
    problem::Problem,
};

/// IP and TCP headers without options.
const HEADERS_V4: u32 = 40;
/// Likewise, IPv6.
const HEADERS_V6: u32 = 60;
/// The index of `lo` in every namespace (include/linux/netdevice.h, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// What `net.ipv6.conf.IF.hop_limit` is unless someone changed it.
const HOP_LIMIT: u8 = 64;

/// The entry of `INTERFACES` for `link`.
pub fn entry(
    link: &Link,
    metrics: &[Metrics; 2],
    sysctls: &Sysctls,
    hop_limit: Option<u8>,
    addresses: &HostAddresses,
) -> abi::Interface {
    let [mss4, mss6] = mss_of(link, metrics);
    let hops = |metrics: &Metrics, default| match metrics.hop_limit {
        0 => default,
        hops => hops as u8,
    };
    let mut entry = abi::Interface {
        ifindex: link.index,
        flags: if link.partial_checksums { abi::INTERFACE_PARTIAL_CHECKSUMS } else { 0 },
        mac: abi::mac(link.mac.unwrap_or_default()),
        mss4,
        mss6,
        ttl: hops(&metrics[0], sysctls.ip_default_ttl),
        hop_limit: hops(&metrics[1], hop_limit.unwrap_or(HOP_LIMIT)),
        // One tag is taken off before the interface's own hand-off, another before that of a VLAN device.
        max_vlan_tags: if link.vlans.is_empty() { 1 } else { 2 },
        ..abi::Interface::default()
    };
    fill_broadcasts(&mut entry, link, &addresses.broadcast);
    if fill_addresses(&mut entry, link, &addresses.local) {
        entry.flags |= abi::INTERFACE_LOCAL_COMPLETE;
    }
    entry
}

/// Fails where nothing can be defended on an interface, and says what to do instead.
pub fn require_defensible(link: &Link) -> Result<(), Problem> {
    let Some(obstacle) = link.obstacle() else { return Ok(()) };
    Err(Problem::Unsupported(format!(
        "{} cannot be defended: {}; {}",
        link.name,
        obstacle.describe(),
        obstacle.remedy()
    )))
}

/// The MSS of the MTU, `[IPv4, IPv6]`: what the default routes by the interface say, or its own.
pub fn mss_of(link: &Link, metrics: &[Metrics; 2]) -> [u16; 2] {
    let [v4, v6] = metrics;
    [(v4, HEADERS_V4), (v6, HEADERS_V6)].map(|(metrics, headers)| match metrics.mtu {
        0 => mss(link.mtu, headers),
        mtu => mss(mtu, headers),
    })
}

/// Bits that the smallest frame takes on the wire, with preamble and gap.
const SMALLEST_FRAME: u64 = 84 * 8;

/// The smallest frames a second that the fastest link carries; none: the speed of one is unknown, which may be that one.
///
/// A SYN-ACK leaves by the link its SYN came by, so the limit of a service is for the one by which most can come. That of a
/// slower one would hold back the clients of all others; half of the sum would leave a flood by one link all of it.
pub fn link_replies(links: &[Link]) -> Option<u32> {
    let speeds: Option<Vec<u32>> = links.iter().map(|link| link.speed).collect();
    speeds?.into_iter().max().map(smallest_frames)
}

/// The smallest frames a second at a speed in Mbit/s.
fn smallest_frames(speed: u32) -> u32 {
    (u64::from(speed) * 1_000_000 / SMALLEST_FRAME).min(u32::MAX.into()) as u32
}

fn mss(mtu: u32, headers: u32) -> u16 {
    mtu.saturating_sub(headers).min(u16::MAX.into()) as u16
}

/// Fills in addresses of this host, those of the interface first. Returns whether that is all there are.
fn fill_addresses(entry: &mut abi::Interface, link: &Link, local: &[LocalPrefix]) -> bool {
    let mut local: Vec<_> = local.iter().filter(|prefix| !prefix.address.is_loopback()).collect();
    local.sort_by_key(|prefix| prefix.ifindex != link.index);
    let whole = |prefix: &&&LocalPrefix| prefix.prefix_len == if prefix.address.is_ipv4() { 32 } else { 128 };
    let mut v4: Vec<V4> = Vec::new();
    let mut v6: Vec<[u64; 2]> = Vec::new();
    for prefix in local.iter().filter(whole) {
        match prefix.address {
            IpAddr::V4(address) if !v4.contains(&address.into()) => v4.push(address.into()),
            IpAddr::V6(address) if !v6.contains(&halves(address)) => v6.push(halves(address)),
            _ => {}
        }
    }
    fill(&mut entry.local4, &v4);
    fill(&mut entry.local6, &v6);
    local.iter().all(|prefix| whole(&prefix))
        && v4.len() <= entry.local4.len()
        && v6.len() <= entry.local6.len()
}

/// Fills in broadcast addresses of this host's subnets, those of the interface first.
fn fill_broadcasts(entry: &mut abi::Interface, link: &Link, broadcast: &[LocalPrefix]) {
    let mut broadcast: Vec<_> = broadcast.iter().filter(|prefix| prefix.ifindex != LOOPBACK).collect();
    broadcast.sort_by_key(|prefix| prefix.ifindex != link.index);
    let addresses = broadcast.iter().filter_map(|prefix| match prefix.address {
        IpAddr::V4(address) => Some(V4::from(address)),
        IpAddr::V6(_) => None,
    });
    fill(&mut entry.broadcast4, &addresses.collect::<Vec<_>>());
}

fn halves(address: Ipv6Addr) -> [u64; 2] {
    V6::from(address).halves()
}

fn fill<T: Copy>(slots: &mut [T], values: &[T]) {
    for (slot, value) in slots.iter_mut().zip(values) {
        *slot = *value;
    }
}

/// The entries of `LOCAL` for this host's addresses. Loopback is left out: it never comes from outside.
pub fn prefixes(local: &[LocalPrefix]) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = local
        .iter()
        .filter(|prefix| !prefix.address.is_loopback())
        .map(|prefix| match prefix.address {
            IpAddr::V4(v4) => (abi::mapped(v4.octets()), 96 + u32::from(prefix.prefix_len)),
            IpAddr::V6(v6) => (v6.octets(), u32::from(prefix.prefix_len)),
        })
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// Puts `entry` into `INTERFACES`, if it is not there already.
pub fn write(map: &mut Slots<abi::Interfaces>, mut entry: abi::Interface) -> Result<()> {
    let mut all = map.get(0)?;
    let mut slots =
        (0..abi::INTERFACE_PROBES).map(|probe| abi::interface_slot(entry.ifindex, probe) as usize);
    let Some(slot) = slots
        .clone()
        .find(|slot| all[*slot].ifindex == entry.ifindex)
        .or_else(|| slots.find(|slot| all[*slot].ifindex == 0))
    else {
        bail!("too many interfaces: no room for the one with index {}", entry.ifindex)
    };
    // What the datapath has found out stays.
    entry.flags |= all[slot].flags & abi::INTERFACE_NO_METADATA;
    if all[slot] == entry {
        return Ok(());
    }
    all[slot] = entry;
    map.set(0, all)
}

/// Removes the entries of all interfaces but `kept`.
pub fn retain(map: &mut Slots<abi::Interfaces>, kept: &[u32]) -> Result<()> {
    let present = map.get(0)?;
    let left =
        present.map(|entry| if kept.contains(&entry.ifindex) { entry } else { abi::Interface::default() });
    if left == present { Ok(()) } else { map.set(0, left) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_mss_is_what_the_mtu_leaves() {
        assert_eq!((mss(1500, HEADERS_V4), mss(1500, HEADERS_V6)), (1460, 1440));
        assert_eq!((mss(20, HEADERS_V4), mss(1 << 20, HEADERS_V4)), (0, u16::MAX));
    }

    #[test]
    fn prefixes_are_mapped_and_loopback_is_left_out() {
        let prefix = |address: &str, prefix_len| LocalPrefix {
            address: address.parse().expect("an address"),
            prefix_len,
            ifindex: 2,
        };
        let local =
            [prefix("127.0.0.0", 8), prefix("::1", 128), prefix("192.0.2.0", 24), prefix("2001:db8::1", 128)];
        let expected = [
            (abi::mapped([192, 0, 2, 0]), 120),
            ("2001:db8::1".parse::<Ipv6Addr>().expect("v6").octets(), 128),
        ];
        assert_eq!(prefixes(&local), expected);
    }

    #[test]
    fn the_fastest_link_sets_the_limit_and_an_unknown_one_none() {
        let replies = |speeds: &[Option<u32>]| {
            let links: Vec<_> =
                speeds.iter().map(|speed| Link { speed: *speed, ..Link::default() }).collect();
            link_replies(&links)
        };
        assert_eq!(replies(&[Some(1000), Some(10_000), Some(100)]), Some(14_880_952));
        assert_eq!(replies(&[Some(10)]), Some(14_880));
        assert_eq!((replies(&[]), replies(&[None]), replies(&[Some(10), None])), (None, None, None));
    }

    #[test]
    fn the_interfaces_own_broadcast_addresses_come_first() {
        let prefix = |address: &str, ifindex| LocalPrefix {
            address: address.parse().expect("an address"),
            prefix_len: 32,
            ifindex,
        };
        let broadcast = [
            prefix("127.255.255.255", LOOPBACK),
            prefix("172.17.255.255", 3),
            prefix("172.18.255.255", 4),
            prefix("172.19.255.255", 5),
            prefix("192.0.2.255", 2),
            prefix("198.51.100.255", 2),
        ];
        let link = Link { index: 2, ..Link::default() };
        let expected = [[192, 0, 2, 255], [198, 51, 100, 255], [172, 17, 255, 255], [172, 18, 255, 255]]
            .map(Ipv4Addr::from);
        let mut entry = abi::Interface::default();
        fill_broadcasts(&mut entry, &link, &broadcast);
        assert_eq!(entry.broadcast4, expected.map(V4::from));
    }

    #[test]
    fn a_link_carries_so_many_of_the_smallest_frames() {
        assert_eq!([1000, 10_000].map(smallest_frames), [1_488_095, 14_880_952]);
        assert_eq!(smallest_frames(u32::MAX), u32::MAX);
    }
}
