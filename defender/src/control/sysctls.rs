//! What the host's TCP settings mean for the datapath. Pure.

use defender_common::{abi, load};

use crate::host::sysctl::Sysctls;

/// The flags of [`abi::Config`].
pub fn config_flags(sysctls: &Sysctls) -> u32 {
    let flags = [
        (sysctls.tcp_syncookies == 0, abi::CONFIG_SUSPENDED),
        (sysctls.tcp_timestamps != 0, abi::CONFIG_TIMESTAMPS),
        (sysctls.tcp_sack, abi::CONFIG_SACK),
        (sysctls.tcp_window_scaling, abi::CONFIG_WINDOW_SCALING),
        (matches!(sysctls.tcp_ecn, 1 | 2), abi::CONFIG_ECN),
    ];
    flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
}

/// For how many cohorts of half-open connections (units of 2³⁰ ns) the kernel keeps one: after the last of its SYN-ACKs it
/// waits once more, and each wait is twice the one before, a second at first (`reqsk_timer_handler`,
/// net/ipv4/inet_connection_sock.c).
pub fn cohorts(sysctls: &Sysctls) -> u32 {
    let seconds = (2_u64 << sysctls.tcp_synack_retries.min(16)) - 1;
    // One is being filled, one is cleared ahead, and the kernel's longer timers run late by up to a sixteenth.
    let cohorts = ((seconds * 1_000_000_000) >> 30) + 4;
    cohorts.min(load::MOST_COHORTS.into()) as u32
}

/// What people are told while nothing is challenged.
pub const SUSPENDED: &str = "net.ipv4.tcp_syncookies is 0: the kernel would reset every connection handed to it, so \
                             nothing is challenged. `sysctl -w net.ipv4.tcp_syncookies=1` lets the defence go on";

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
        }
    }

    #[test]
    fn half_open_connections_live_as_long_as_the_kernel_lets_them() {
        let cohorts = |tcp_synack_retries| cohorts(&Sysctls { tcp_synack_retries, ..sysctls() });
        assert_eq!([0, 1, 2, 5, 6, 255].map(cohorts), [4, 6, 10, 62, 62, 62]);
    }

    #[test]
    fn every_setting_has_its_flag() {
        let all = abi::CONFIG_TIMESTAMPS | abi::CONFIG_SACK | abi::CONFIG_WINDOW_SCALING | abi::CONFIG_ECN;
        assert_eq!(config_flags(&sysctls()), all);
        let flags = config_flags(&Sysctls { tcp_syncookies: 0, tcp_sack: false, tcp_ecn: 0, ..sysctls() });
        assert_eq!(flags, abi::CONFIG_SUSPENDED | abi::CONFIG_TIMESTAMPS | abi::CONFIG_WINDOW_SCALING);
    }
}
