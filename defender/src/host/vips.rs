//! Virtual IP addresses: addresses of this host on devices that receive no external packets, as behind
//! balancers and routers.
//!
//! A balancer with direct server return (such as LVS-DR) forwards packets with the client's source address,
//! and replies bypass it. A SYN-ACK made at the NIC would go to the sender of the frame, which is the
//! balancer. Its servers hold the address on loopback or a dummy device. They set `arp_ignore`, because
//! only the balancer may answer ARP for the address. A router (anycast) needs no `arp_ignore`: it knows
//! which host has the address.

use std::{fmt, net::IpAddr};

use anyhow::Result;

use super::{addresses::LocalPrefix, links, sysctl};

/// At most this many are named in a message.
const NAMED: usize = 3;

/// A virtual IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The device that holds it.
    pub device: String,
    /// The defended interfaces do not answer ARP for this address, so there must be a balancer in front.
    pub direct_return: bool,
}

/// Virtual IP addresses among `local`, on a host that defends `interfaces`.
pub fn vips(local: &[LocalPrefix], interfaces: &[String]) -> Result<Vec<Vip>> {
    let holders = links::silent()?;
    let mut arp_ignore = false;
    for interface in interfaces {
        arp_ignore |= sysctl::arp_ignore(interface)?;
    }
    let vip = |prefix: &LocalPrefix| {
        let (_, device) = holders.iter().find(|(index, _)| *index == prefix.ifindex)?;
        let address = prefix.address;
        is_vip(prefix).then(|| Vip {
            address,
            device: device.clone(),
            direct_return: arp_ignore && address.is_ipv4(),
        })
    };
    Ok(local.iter().filter_map(vip).collect())
}

fn is_vip(prefix: &LocalPrefix) -> bool {
    match prefix.address {
        IpAddr::V4(v4) => prefix.prefix_len == 32 && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => prefix.prefix_len == 128 && !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Warnings about these addresses, one line per kind.
pub fn warnings(vips: &[Vip]) -> Vec<String> {
    let (behind, perhaps): (Vec<&Vip>, Vec<&Vip>) = vips.iter().partition(|vip| vip.direct_return);
    let mut warnings = Vec::new();
    if !behind.is_empty() {
        warnings.push(format!(
            "{} with arp_ignore: a balancer sends clients here and answers go past it (direct server return), so that a \
             SYN-ACK from the NIC would not reach them: SYNs to it pass. If routers lead to it instead (anycast), set \
             net.ipv4.conf.all.arp_ignore and that of the interface to 0",
            VipList(&behind)
        ));
    }
    if !perhaps.is_empty() {
        warnings.push(format!(
            "{}: if a balancer sends clients here and answers go past it (LVS-DR, direct server return), challenged \
             clients cannot connect to it: then `defender set mode monitor`. If routers lead to it (anycast), all is well",
            VipList(&perhaps)
        ));
    }
    warnings
}

struct VipList<'a>(&'a [&'a Vip]);

impl fmt::Display for VipList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            self.0.iter().take(NAMED).map(|vip| format!("{} is on {}", vip.address, vip.device)).collect();
        f.write_str(&names.join(", "))?;
        // No count: the warning must stay the same while addresses come and go.
        f.write_str(if self.0.len() > NAMED { " and others likewise" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        addresses,
        testing::{in_namespace, shell},
    };
    use super::*;

    fn found(script: &str) -> Vec<(String, String, bool)> {
        in_namespace(|| {
            shell(
                "ip link add dfnd0 type veth peer name dfnd1; ip link set dfnd0 up; ip addr add 192.0.2.1/24 dev dfnd0",
            );
            shell(script);
            let vips = vips(&addresses::local_prefixes().unwrap(), &["dfnd0".to_owned()]).unwrap();
            vips.into_iter().map(|vip| (vip.address.to_string(), vip.device, vip.direct_return)).collect()
        })
    }

    fn vip(address: &str, direct_return: bool) -> (String, String, bool) {
        (address.to_owned(), "lo".to_owned(), direct_return)
    }

    #[test]
    fn addresses_of_interfaces_and_whole_prefixes_are_none() {
        assert_eq!(found("true"), []);
        assert_eq!(
            found("ip route add local 198.51.100.0/24 dev lo; ip addr add 192.0.2.9/32 dev dfnd0"),
            []
        );
        assert_eq!(found("ip addr add 127.1.2.3/32 dev lo; ip addr add 169.254.20.10/32 dev lo"), []);
    }

    #[test]
    fn a_single_address_on_the_loopback_device_is_one() {
        // The kernel adds an IPv6 address to its local table with a short delay.
        let both = "ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8::7/128 dev lo nodad
            until ip -6 route show table local 2001:db8::7 | grep -q .; do sleep 0.01; done";
        assert_eq!(found(both), [vip("203.0.113.7", false), vip("2001:db8::7", false)]);
        for name in ["all", "dfnd0"] {
            let script = format!("{both}; sysctl -qw net.ipv4.conf.{name}.arp_ignore=1");
            assert_eq!(found(&script), [vip("203.0.113.7", true), vip("2001:db8::7", false)], "{name}");
        }
        let elsewhere = format!("{both}; sysctl -qw net.ipv4.conf.dfnd1.arp_ignore=1");
        assert_eq!(found(&elsewhere), [vip("203.0.113.7", false), vip("2001:db8::7", false)]);
    }

    #[test]
    fn each_kind_has_its_warning_and_few_are_named() {
        let vip = |last: u8, direct_return| Vip {
            address: [203, 0, 113, last].into(),
            device: "lo".to_owned(),
            direct_return,
        };
        let warned = warnings(&[vip(1, false), vip(2, true), vip(3, false), vip(4, false), vip(5, false)]);
        assert_eq!(warned.len(), 2);
        assert!(warned[0].starts_with("203.0.113.2 is on lo with arp_ignore"), "{warned:?}");
        assert!(warned[1].contains("203.0.113.4 is on lo and others likewise: if a balancer"), "{warned:?}");
        assert_eq!(warnings(&[]), [""; 0]);
    }
}
