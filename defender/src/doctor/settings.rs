//! Sysctls that decide what can be challenged, and what challenged connections keep.

use super::Check;
use crate::host::firewall::{Firewall, Problem};
use crate::host::sysctl::Sysctls;

pub(super) fn checks(sysctls: &Sysctls, firewall: &Firewall) -> Vec<Check> {
    vec![
        syncookies(sysctls.tcp_syncookies),
        timestamps(sysctls.tcp_timestamps),
        option(
            "tcp_window_scaling",
            sysctls.tcp_window_scaling,
            "no connection has more than 64 KiB in flight",
        ),
        option("tcp_sack", sysctls.tcp_sack, "lost segments are repeated along with all that follow"),
        conntrack(sysctls.nf_conntrack_tcp_loose, firewall),
    ]
}

fn syncookies(value: u8) -> Check {
    const NAME: &str = "tcp_syncookies";
    if value == 0 {
        let found = "0: the kernel resets connections that are handed over, so nothing is challenged";
        Check::fail(NAME, found, "sysctl -w net.ipv4.tcp_syncookies=1")
    } else {
        Check::ok(NAME, value.to_string())
    }
}

fn timestamps(value: u8) -> Check {
    const NAME: &str = "tcp_timestamps";
    if value == 0 {
        let found = "0: challenged connections keep rounded options only, and never ECN";
        Check::warn(NAME, found, "sysctl -w net.ipv4.tcp_timestamps=1")
    } else {
        Check::ok(NAME, value.to_string())
    }
}

fn option(name: &'static str, on: bool, loss: &str) -> Check {
    if on {
        Check::ok(name, "1")
    } else {
        Check::warn(name, format!("0: {loss}"), format!("sysctl -w net.ipv4.{name}=1"))
    }
}

/// Conntrack sees the ACK of a challenged connection first; `nf_conntrack_tcp_loose` = 0 makes that invalid.
fn conntrack(loose: Option<bool>, firewall: &Firewall) -> Check {
    const NAME: &str = "conntrack";
    const ADVICE: &str = "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1";
    match loose {
        None => Check::ok(NAME, "not in this kernel"),
        Some(true) => Check::ok(NAME, "takes up connections whose SYN it has not seen"),
        Some(false) => match firewall.findings.iter().find(|it| it.problem == Problem::InvalidDropped) {
            Some(finding) => {
                let found = "calls challenged connections invalid (nf_conntrack_tcp_loose is 0), and a rule drops them";
                Check::fail(NAME, format!("{found}: {}", finding.rule), ADVICE)
            }
            None => {
                let found = "calls challenged connections invalid (nf_conntrack_tcp_loose is 0): \
                             rules that go by its states do not let them in, and NAT leaves them alone";
                Check::warn(NAME, found, ADVICE)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::host::testing::{in_namespace, shell};

    /// The checks that are not ok in a namespace with these settings.
    fn complaints(script: &str) -> Vec<(&'static str, Status)> {
        in_namespace(|| {
            shell(script);
            let checks = checks(&Sysctls::read().unwrap(), &Firewall::read());
            assert!(checks.iter().all(|check| (check.status == Status::Ok) == check.advice.is_none()));
            let complaints = checks.iter().filter(|check| check.status != Status::Ok);
            complaints.map(|check| (check.name, check.status)).collect()
        })
    }

    #[test]
    fn defaults_are_fine() {
        assert_eq!(complaints("true"), []);
        let rules =
            "nft 'table ip t { chain c { type filter hook input priority 0; ct state invalid drop; }; }'";
        assert_eq!(complaints(rules), []);
    }

    #[test]
    fn each_setting_that_hurts_is_named() {
        assert_eq!(complaints("sysctl -qw net.ipv4.tcp_syncookies=0"), [("tcp_syncookies", Status::Fail)]);
        assert_eq!(
            complaints(
                "sysctl -qw net.ipv4.tcp_timestamps=0 net.ipv4.tcp_sack=0 net.ipv4.tcp_window_scaling=0"
            ),
            ["tcp_timestamps", "tcp_window_scaling", "tcp_sack"].map(|name| (name, Status::Warn))
        );
    }

    #[test]
    fn strict_conntrack_fails_where_a_rule_goes_by_it() {
        let strict = "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0";
        assert_eq!(complaints(strict), [("conntrack", Status::Warn)]);
        let rules = format!(
            "{strict}; nft 'table ip t {{ chain c {{ type filter hook input priority 0; ct state invalid drop; }}; }}'"
        );
        assert_eq!(complaints(&rules), [("conntrack", Status::Fail)]);
    }
}
