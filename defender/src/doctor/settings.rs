//! Sysctls that decide what can be challenged, and which options challenged connections keep.

use super::Check;
use crate::model::sysctls::Sysctls;

pub(super) fn checks(sysctls: &Sysctls) -> Vec<Check> {
    vec![
        syncookies(sysctls.tcp_syncookies),
        timestamps(sysctls.tcp_timestamps),
        option(
            "tcp_window_scaling",
            sysctls.tcp_window_scaling,
            "no connection has more than 64 KiB in flight",
        ),
        option("tcp_sack", sysctls.tcp_sack, "lost segments are repeated along with all that follow"),
        conntrack(sysctls.nf_conntrack_tcp_loose),
    ]
}

fn syncookies(value: u8) -> Check {
    const NAME: &str = "tcp_syncookies";
    let remedy = "sysctl -w net.ipv4.tcp_syncookies=1";
    match value {
        0 => {
            let found = "0: the kernel resets connections that are handed over, so nothing is challenged";
            Check::fail(NAME, found, remedy)
        }
        1 => Check::ok(NAME, "1"),
        _ => {
            let found = format!(
                "{value}: the kernel answers every SYN with a cookie of its own, its queue stays empty, and mode auto sees no flood"
            );
            Check::warn(NAME, found, remedy)
        }
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

/// For a challenged connection, conntrack sees the ACK first. With `nf_conntrack_tcp_loose` = 0 it is
/// invalid.
fn conntrack(loose: Option<bool>) -> Check {
    const NAME: &str = "conntrack";
    match loose {
        None => Check::ok(NAME, "not in this kernel"),
        Some(true) => Check::ok(NAME, "picks up connections whose SYN it has not seen"),
        Some(false) => {
            let found = "calls challenged connections invalid (nf_conntrack_tcp_loose is 0): \
                         rules that go by its states do not let them in, and NAT leaves them alone";
            Check::warn(NAME, found, "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::host::{
        sysctl,
        testing::{in_namespace, shell},
    };

    /// The checks that are not ok in a namespace with these settings.
    fn complaints(script: &str) -> Vec<(&'static str, Status)> {
        in_namespace(|| {
            shell(script);
            let checks = checks(&sysctl::read_all().unwrap());
            assert!(checks.iter().all(|check| (check.status == Status::Ok) == check.advice.is_none()));
            let complaints = checks.iter().filter(|check| check.status != Status::Ok);
            complaints.map(|check| (check.name, check.status)).collect()
        })
    }

    #[test]
    fn defaults_are_fine() {
        assert_eq!(complaints("true"), []);
    }

    #[test]
    fn each_setting_that_hurts_is_named() {
        assert_eq!(complaints("sysctl -qw net.ipv4.tcp_syncookies=0"), [("tcp_syncookies", Status::Fail)]);
        assert_eq!(complaints("sysctl -qw net.ipv4.tcp_syncookies=2"), [("tcp_syncookies", Status::Warn)]);
        assert_eq!(
            complaints(
                "sysctl -qw net.ipv4.tcp_timestamps=0 net.ipv4.tcp_sack=0 net.ipv4.tcp_window_scaling=0"
            ),
            ["tcp_timestamps", "tcp_window_scaling", "tcp_sack"].map(|name| (name, Status::Warn))
        );
    }

    #[test]
    fn strict_conntrack_is_reported() {
        let strict = "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0";
        assert_eq!(complaints(strict), [("conntrack", Status::Warn)]);
    }
}
