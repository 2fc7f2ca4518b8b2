//! What the host's TCP settings mean for the datapath. Pure.

use defender_common::abi;

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
            somaxconn: 4096,
            nf_conntrack_tcp_loose: None,
        }
    }

    #[test]
    fn every_setting_has_its_flag() {
        let all = abi::CONFIG_TIMESTAMPS | abi::CONFIG_SACK | abi::CONFIG_WINDOW_SCALING | abi::CONFIG_ECN;
        assert_eq!(config_flags(&sysctls()), all);
        let flags = config_flags(&Sysctls { tcp_syncookies: 0, tcp_sack: false, tcp_ecn: 0, ..sysctls() });
        assert_eq!(flags, abi::CONFIG_SUSPENDED | abi::CONFIG_TIMESTAMPS | abi::CONFIG_WINDOW_SCALING);
    }
}
