//! Settings under `/proc/sys`. Those of `net` are the ones of the calling thread's network namespace
//! (`net/sysctl_net.c`, `net_ctl_header_lookup`), wherever `/proc` was mounted.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};

/// The settings that decide what this kernel's TCP says and takes. Names are the kernel's
/// (`Documentation/networking/ip-sysctl.rst`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.tcp_syncookies`: 0 never (and hand-offs are answered with RST), 1 on overflow, 2 always.
    pub tcp_syncookies: u8,
    /// `net.ipv4.tcp_timestamps`: 0 off, 1 with a random offset per peer, 2 without.
    pub tcp_timestamps: u8,
    /// `net.ipv4.tcp_sack`.
    pub tcp_sack: bool,
    /// `net.ipv4.tcp_window_scaling`.
    pub tcp_window_scaling: bool,
    /// `net.ipv4.tcp_ecn`: 0 off, 1 asks and accepts, 2 accepts, 3 and above: accurate ECN (kernel 6.18).
    pub tcp_ecn: u8,
    /// `net.ipv4.ip_default_ttl`, in hops.
    pub ip_default_ttl: u8,
    /// `net.ipv4.ip_forward`: this host is a router.
    pub ip_forward: bool,
    /// `net.ipv4.tcp_rmem`: least, initial and greatest receive buffer, in bytes.
    pub tcp_rmem: [u32; 3],
    /// `net.core.rmem_max`: the greatest `SO_RCVBUF`, in bytes; one for all namespaces. Older kernels show it in the
    /// first namespace only.
    pub rmem_max: Option<u32>,
    /// `net.ipv4.tcp_adv_win_scale`: the share of a buffer that is window, before kernel 6.6.
    pub tcp_adv_win_scale: Option<i32>,
    /// `net.ipv4.tcp_workaround_signed_windows`: never offer more than 32,767.
    pub tcp_workaround_signed_windows: bool,
    /// `net.ipv4.tcp_max_syn_backlog`: half-open connections a listener may hold.
    pub tcp_max_syn_backlog: u32,
    /// `net.ipv4.tcp_synack_retries`: how often the kernel repeats a SYN-ACK.
    pub tcp_synack_retries: u8,
    /// `net.core.somaxconn`: the greatest backlog of `listen`.
    pub somaxconn: u32,
    /// `net.netfilter.nf_conntrack_tcp_loose`: whether conntrack takes up a connection whose SYN it has not seen.
    /// Missing where conntrack is not in the kernel.
    pub nf_conntrack_tcp_loose: Option<bool>,
}

impl Sysctls {
    /// Reads them all.
    pub fn read() -> Result<Self> {
        Ok(Self {
            tcp_syncookies: need("net/ipv4/tcp_syncookies")?,
            tcp_timestamps: need("net/ipv4/tcp_timestamps")?,
            tcp_sack: flag("net/ipv4/tcp_sack")?,
            tcp_window_scaling: flag("net/ipv4/tcp_window_scaling")?,
            tcp_ecn: need("net/ipv4/tcp_ecn")?,
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
        })
    }
}

/// `net.ipv6.conf.IF.hop_limit`, in hops: of packets that leave by that interface, unless a route says otherwise.
/// `None` where the interface has no IPv6.
pub fn hop_limit(interface: &str) -> Result<Option<u8>> {
    find(&format!("net/ipv6/conf/{interface}/hop_limit"))
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

/// A setting that may be missing.
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

/// The name as people type it to sysctl(8).
fn dotted(name: &str) -> String {
    name.replace('.', "\0").replace('/', ".").replace('\0', "/")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_namespace, shell};
    use super::*;

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        let outside = Sysctls::read().unwrap();
        let inside = in_namespace(|| {
            shell(
                "cd /proc/sys/net/ipv4; echo 0 > tcp_syncookies; echo 0 > tcp_timestamps; echo 0 > tcp_sack
                 echo 0 > tcp_window_scaling; echo 1 > tcp_ecn; echo 77 > ip_default_ttl; echo 1 > ip_forward
                 echo '4096 100000 200000' > tcp_rmem; echo 99 > tcp_max_syn_backlog; echo 3 > tcp_synack_retries
                 echo 98 > /proc/sys/net/core/somaxconn",
            );
            Sysctls::read().unwrap()
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
        assert_eq!(Sysctls::read().unwrap(), outside);
    }

    #[test]
    fn conntracks_looseness_is_read() {
        let loose = in_namespace(|| {
            shell("sysctl -q net.netfilter.nf_conntrack_tcp_loose=0");
            Sysctls::read().unwrap().nf_conntrack_tcp_loose
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
