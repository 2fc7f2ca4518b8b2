//! Settings under `/proc/sys`. `net` settings are those of the calling thread's network namespace,
//! regardless of where `/proc` was mounted (`net/sysctl_net.c`, `net_ctl_header_lookup`).

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::model::sysctls::Sysctls;

/// Names of the settings in [`Sysctls`], below `/proc/sys`.
pub const NAMES: [&str; 17] = [
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/tcp_sack",
    "net/ipv4/tcp_window_scaling",
    "net/ipv4/tcp_ecn",
    "net/ipv4/tcp_reflect_tos",
    "net/ipv4/ip_default_ttl",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_rmem",
    "net/core/rmem_max",
    "net/ipv4/tcp_adv_win_scale",
    "net/ipv4/tcp_workaround_signed_windows",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_synack_retries",
    "net/core/somaxconn",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
];

/// Reads all of them.
pub fn read_all() -> Result<Sysctls> {
    Ok(Sysctls {
        tcp_syncookies: need("net/ipv4/tcp_syncookies")?,
        tcp_timestamps: need("net/ipv4/tcp_timestamps")?,
        tcp_sack: flag("net/ipv4/tcp_sack")?,
        tcp_window_scaling: flag("net/ipv4/tcp_window_scaling")?,
        tcp_ecn: need("net/ipv4/tcp_ecn")?,
        tcp_reflect_tos: flag("net/ipv4/tcp_reflect_tos")?,
        ip_default_ttl: need("net/ipv4/ip_default_ttl")?,
        ip_forward: flag("net/ipv4/ip_forward")?,
        tcp_rmem: triple("net/ipv4/tcp_rmem")?,
        rmem_max: find("net/core/rmem_max")?,
        tcp_adv_win_scale: find("net/ipv4/tcp_adv_win_scale")?,
        tcp_workaround_signed_windows: flag("net/ipv4/tcp_workaround_signed_windows")?,
        tcp_max_syn_backlog: need("net/ipv4/tcp_max_syn_backlog")?,
        tcp_synack_retries: need("net/ipv4/tcp_synack_retries")?,
        somaxconn: need("net/core/somaxconn")?,
        nf_conntrack_tcp_loose: find("net/netfilter/nf_conntrack_tcp_loose")?.map(|loose: u8| loose != 0),
        nf_conntrack_tcp_timeout_established: find("net/netfilter/nf_conntrack_tcp_timeout_established")?,
    })
}

/// `net.ipv6.conf.IF.hop_limit`, in hops. It applies to packets that leave through the interface, unless a
/// route overrides it. `None` if the interface has no IPv6.
pub fn hop_limit(interface: &str) -> Result<Option<u8>> {
    find(&format!("net/ipv6/conf/{interface}/hop_limit"))
}

/// `net.ipv4.conf.IF.arp_ignore`, of the interface or of `all`: the host does not answer ARP for all its
/// addresses.
pub fn arp_ignore(interface: &str) -> Result<bool> {
    for name in ["all", interface] {
        if find(&format!("net/ipv4/conf/{name}/arp_ignore"))?.is_some_and(|mode: u8| mode != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A setting that every kernel has.
fn need<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str) -> Result<T> {
    find(name)?.with_context(|| format!("this kernel has no setting {}", dotted(name)))
}

fn flag(name: &str) -> Result<bool> {
    need::<u32>(name).map(|value| value != 0)
}

fn triple(name: &str) -> Result<[u32; 3]> {
    let text = read(name)?.with_context(|| format!("this kernel has no setting {}", dotted(name)))?;
    let values: Vec<u32> = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
    values.try_into().map_err(|_| anyhow::anyhow!("{} does not hold three numbers: {text:?}", dotted(name)))
}

/// A setting that may be absent.
fn find<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str) -> Result<Option<T>> {
    let Some(text) = read(name)? else { return Ok(None) };
    let value = text.trim().parse().with_context(|| format!("{} holds {:?}", dotted(name), text.trim()))?;
    Ok(Some(value))
}

fn read(name: &str) -> Result<Option<String>> {
    match fs::read_to_string(Path::new("/proc/sys").join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the setting {}", dotted(name))),
    }
}

/// The name in sysctl(8) notation.
fn dotted(name: &str) -> String {
    name.replace('.', "\0").replace('/', ".").replace('\0', "/")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_namespace, shell};
    use super::*;

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        let outside = read_all().unwrap();
        let inside = in_namespace(|| {
            shell(
                "cd /proc/sys/net/ipv4; echo 0 > tcp_syncookies; echo 0 > tcp_timestamps; echo 0 > tcp_sack
                 echo 0 > tcp_window_scaling; echo 1 > tcp_ecn; echo 77 > ip_default_ttl; echo 1 > ip_forward
                 echo '4096 100000 200000' > tcp_rmem; echo 99 > tcp_max_syn_backlog; echo 3 > tcp_synack_retries
                 echo 98 > /proc/sys/net/core/somaxconn",
            );
            read_all().unwrap()
        });
        assert_eq!(
            inside,
            Sysctls {
                tcp_syncookies: 0,
                tcp_timestamps: 0,
                tcp_sack: false,
                tcp_window_scaling: false,
                tcp_ecn: 1,
                ip_default_ttl: 77,
                ip_forward: true,
                tcp_rmem: [4096, 100_000, 200_000],
                tcp_max_syn_backlog: 99,
                tcp_synack_retries: 3,
                somaxconn: 98,
                ..inside.clone()
            }
        );
        assert_eq!(read_all().unwrap(), outside);
    }

    #[test]
    fn conntracks_looseness_is_read() {
        let loose = in_namespace(|| {
            shell("sysctl -q net.netfilter.nf_conntrack_tcp_loose=0");
            read_all().unwrap().nf_conntrack_tcp_loose
        });
        assert_eq!(loose, Some(false));
    }

    #[test]
    fn hop_limits_are_per_interface() {
        in_namespace(|| {
            shell(
                "ip link add dfnd.0 type veth peer name dfnd1; echo 33 > /proc/sys/net/ipv6/conf/dfnd.0/hop_limit",
            );
            assert_eq!(hop_limit("dfnd.0").unwrap(), Some(33));
            assert_eq!(hop_limit("dfnd1").unwrap(), Some(64));
            assert_eq!(hop_limit("missing").unwrap(), None);
        });
    }

    #[test]
    fn names_are_given_as_sysctl_takes_them() {
        assert_eq!(dotted("net/ipv6/conf/eth0.5/hop_limit"), "net.ipv6.conf.eth0/5.hop_limit");
    }
}
