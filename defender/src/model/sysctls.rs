//! What the host's TCP settings mean for the datapath. Pure.

use std::{collections::BTreeMap, time::Instant};

use defender_common::{abi, lifetimes, load};

use crate::model::timestamp;

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
    /// `net.ipv4.tcp_reflect_tos`: a SYN-ACK has its SYN's type of service.
    pub tcp_reflect_tos: bool,
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
    /// `net.netfilter.nf_conntrack_tcp_timeout_established`, in seconds; likewise.
    pub nf_conntrack_tcp_timeout_established: Option<u32>,
}

/// The flags of [`abi::Config`].
pub fn config_flags(sysctls: &Sysctls) -> u32 {
    let flags = [
        (sysctls.tcp_syncookies == 0, abi::CONFIG_SUSPENDED),
        (sysctls.tcp_timestamps != 0, abi::CONFIG_TIMESTAMPS),
        (sysctls.tcp_sack, abi::CONFIG_SACK),
        (sysctls.tcp_window_scaling, abi::CONFIG_WINDOW_SCALING),
        (sysctls.tcp_ecn != 0, abi::CONFIG_ECN),
        (sysctls.tcp_reflect_tos, abi::CONFIG_REFLECT_TOS),
    ];
    flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
}

/// For how many age buckets of half-open connections (units of 2³⁰ ns) the kernel keeps one: after the last of its SYN-ACKs it
/// waits once more, and each wait is twice the one before, a second at first (`reqsk_timer_handler`,
/// net/ipv4/inet_connection_sock.c).
pub fn age_buckets(sysctls: &Sysctls) -> u32 {
    let seconds = (2_u64 << sysctls.tcp_synack_retries.min(16)) - 1;
    // One is being filled, one is cleared ahead, and the kernel's longer timers run late by up to a sixteenth.
    let age_buckets = ((seconds * 1_000_000_000) >> 30) + 4;
    age_buckets.min(load::MAX_AGE_BUCKETS.into()) as u32
}

/// For how long conntrack keeps an established connection, in milliseconds; 0: there is no conntrack.
pub fn conntrack_established_ms(sysctls: &Sysctls) -> u32 {
    sysctls.nf_conntrack_tcp_timeout_established.unwrap_or_default().saturating_mul(1000)
}

/// The warning while nothing is challenged.
pub const SUSPENDED: &str = "net.ipv4.tcp_syncookies is 0: the kernel would reset every handed-over connection, so \
                             nothing is challenged. To resume: `sysctl -w net.ipv4.tcp_syncookies=1`";

/// Sysctls that were switched off a moment ago: the kernel refuses what cookies made before have promised. When that was,
/// and what people should know as long as it is off.
#[derive(Debug, Default)]
pub struct Broken(BTreeMap<&'static str, (Instant, Option<String>)>);

impl Broken {
    /// Takes in what the sysctls were, and are `now`; `at` is the wall-clock time, in milliseconds.
    pub fn note(&mut self, before: &Sysctls, after: &Sysctls, now: Instant, at: u64) {
        let switches = |sysctls: &Sysctls| {
            [
                sysctls.tcp_timestamps != 0,
                sysctls.tcp_sack,
                sysctls.tcp_window_scaling,
                sysctls.tcp_syncookies != 0,
            ]
        };
        self.0.retain(|_, (since, _)| now.saturating_duration_since(*since) < lifetimes::COOKIE);
        for ((name, effect), (was, is)) in
            SWITCHES.iter().zip(switches(before).into_iter().zip(switches(after)))
        {
            if was && !is {
                let time = timestamp::rfc3339(at);
                self.0.insert(name, (now, Some(format!("{name} was changed to 0 at {time}: {effect}"))));
            }
            // What was refused meanwhile is still counted.
            if is && let Some((_, warning)) = self.0.get_mut(name) {
                *warning = None;
            }
        }
    }

    /// Whether cookies may be under way that promise what is refused now.
    pub fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// What people should know of it.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.0.values().filter_map(|(_, warning)| warning.clone())
    }
}

/// What may be switched off, and what becomes of clients that were promised it.
const SWITCHES: [(&str, &str); 4] = [
    (
        "net.ipv4.tcp_timestamps",
        "clients whose handshake was under way go on without timestamps; those that insist on them hang",
    ),
    ("net.ipv4.tcp_sack", "clients whose handshake was under way go on without selective acknowledgements"),
    (
        "net.ipv4.tcp_window_scaling",
        "the kernel resets clients whose handshake was under way, and takes new ones without window scaling",
    ),
    ("net.ipv4.tcp_syncookies", "the kernel resets clients whose handshake was under way"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls() -> Sysctls {
        Sysctls {
            tcp_syncookies: 1,
            tcp_timestamps: 1,
            tcp_sack: true,
            tcp_window_scaling: true,
            tcp_ecn: 2,
            tcp_reflect_tos: false,
            ip_default_ttl: 64,
            ip_forward: false,
            tcp_rmem: [4096, 131_072, 6_291_456],
            rmem_max: Some(212_992),
            tcp_adv_win_scale: None,
            tcp_workaround_signed_windows: false,
            tcp_max_syn_backlog: 4096,
            tcp_synack_retries: 5,
            somaxconn: 4096,
            nf_conntrack_tcp_loose: None,
            nf_conntrack_tcp_timeout_established: None,
        }
    }

    #[test]
    fn conntrack_s_timeout_is_in_milliseconds() {
        let timeout = |seconds| {
            conntrack_established_ms(&Sysctls { nf_conntrack_tcp_timeout_established: seconds, ..sysctls() })
        };
        assert_eq!([None, Some(432_000), Some(u32::MAX)].map(timeout), [0, 432_000_000, u32::MAX]);
    }

    #[test]
    fn half_open_connections_live_as_long_as_the_kernel_lets_them() {
        let age_buckets = |tcp_synack_retries| age_buckets(&Sysctls { tcp_synack_retries, ..sysctls() });
        assert_eq!([0, 1, 2, 5, 6, 255].map(age_buckets), [4, 6, 10, 62, 62, 62]);
    }

    #[test]
    fn what_is_switched_off_is_named_for_as_long_as_cookies_live() {
        let mut broken = Broken::default();
        let now = Instant::now();
        let off = Sysctls { tcp_window_scaling: false, ..sysctls() };
        broken.note(&sysctls(), &sysctls(), now, 0);
        assert!(!broken.is_any());
        broken.note(&sysctls(), &off, now, 0);
        let warnings: Vec<_> = broken.warnings().collect();
        let expected =
            "net.ipv4.tcp_window_scaling was changed to 0 at 1970-01-01T00:00:00.000Z: the kernel resets";
        assert!(matches!(&warnings[..], [one] if one.starts_with(expected)), "{warnings:?}");
        // On again: cookies from before it was off are good again, but some of those refused are to be excused.
        broken.note(&off, &sysctls(), now, 0);
        assert!(broken.is_any());
        broken.note(&off, &off, now + lifetimes::COOKIE, 0);
        assert!(!broken.is_any());
        let none = Sysctls { tcp_timestamps: 0, tcp_sack: false, tcp_syncookies: 0, ..off.clone() };
        broken.note(&sysctls(), &none, now, 0);
        assert_eq!(broken.warnings().count(), SWITCHES.len());
    }

    #[test]
    fn every_setting_has_its_flag() {
        let all = abi::CONFIG_TIMESTAMPS | abi::CONFIG_SACK | abi::CONFIG_WINDOW_SCALING | abi::CONFIG_ECN;
        assert_eq!(config_flags(&sysctls()), all);
        let flags = config_flags(&Sysctls { tcp_syncookies: 0, tcp_sack: false, tcp_ecn: 0, ..sysctls() });
        assert_eq!(flags, abi::CONFIG_SUSPENDED | abi::CONFIG_TIMESTAMPS | abi::CONFIG_WINDOW_SCALING);
    }
}
