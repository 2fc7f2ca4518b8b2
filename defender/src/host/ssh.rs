//! The address from which this host is being administered over SSH.
//!
//! sshd sets `SSH_CONNECTION` in the environment of the shell it starts. sudo removes it, so this looks for
//! it in the environments of the ancestor processes.

use std::{fs, iter::successors, net::IpAddr};

/// How many generations of ancestors are searched.
const GENERATIONS: usize = 64;
const VARIABLE: &[u8] = b"SSH_CONNECTION=";

/// The client address of the SSH session that this process belongs to. `None` without a session, and for
/// loopback and link-local addresses.
pub fn administrator() -> Option<IpAddr> {
    let ancestors = successors(Some(std::process::id()), |pid| parent(*pid));
    let environments =
        ancestors.take(GENERATIONS).filter_map(|pid| fs::read(format!("/proc/{pid}/environ")).ok());
    nearest(environments).filter(is_distant)
}

fn parent(pid: u32) -> Option<u32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent's number, from the text of `/proc/PID/stat`. The name before it may contain anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let parent = after_name.split_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}

/// The peer in the first environment that names one.
fn nearest(mut environments: impl Iterator<Item = Vec<u8>>) -> Option<IpAddr> {
    environments.find_map(|environment| peer_in(&environment))
}

fn peer_in(environment: &[u8]) -> Option<IpAddr> {
    let variable = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(VARIABLE))?;
    let peer = std::str::from_utf8(variable).ok()?.split_whitespace().next()?;
    let without_scope = peer.split_once('%').map_or(peer, |(address, _)| address);
    Some(without_scope.parse::<IpAddr>().ok()?.to_canonical())
}

/// Neither this host's own nor a link-local address.
fn is_distant(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(environment: &str) -> Option<String> {
        peer_in(environment.as_bytes()).map(|address| address.to_string())
    }

    #[test]
    fn the_peer_is_the_first_word() {
        for (environment, expected) in [
            ("A=1\0SSH_CONNECTION=192.0.2.7 50000 10.0.0.1 22\0B=2\0", Some("192.0.2.7")),
            ("SSH_CONNECTION=2001:db8::7 50000 2001:db8::1 22", Some("2001:db8::7")),
            ("SSH_CONNECTION=fe80::7%eth0 50000 fe80::1%eth0 22\0", Some("fe80::7")),
            ("SSH_CONNECTION=::ffff:192.0.2.7 50000 ::ffff:10.0.0.1 22\0", Some("192.0.2.7")),
            ("MY_SSH_CONNECTION=192.0.2.7 1 10.0.0.1 22\0", None),
            ("SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535\0", None),
            ("SSH_CONNECTION=\0", None),
            ("", None),
        ] {
            assert_eq!(peer(environment).as_deref(), expected, "{environment}");
        }
    }

    #[test]
    fn the_nearest_counts() {
        let environments =
            ["A=1\0", "SSH_CONNECTION=192.0.2.1 1 10.0.0.1 22\0", "SSH_CONNECTION=192.0.2.2 1 10.0.0.1 22\0"];
        let found = nearest(environments.into_iter().map(|text| text.as_bytes().to_vec()));
        assert_eq!(found, "192.0.2.1".parse().ok());
        assert_eq!(nearest([b"A=1\0".to_vec()].into_iter()), None);
    }

    #[test]
    fn names_do_not_confuse() {
        assert_eq!(parent_in("7 (sh) S 3 7 7 0 -1"), Some(3));
        assert_eq!(parent_in("7 (a) S 9 (b) S 3 7 7 0 -1"), Some(3));
        assert_eq!(parent_in("1 (systemd) S 0 1 1 0 -1"), None);
        assert_eq!(parent_in(""), None);
        let ours = std::os::unix::process::parent_id();
        assert_eq!(parent(std::process::id()), Some(ours));
    }

    #[test]
    fn link_local_and_loopback_addresses_are_not_distant() {
        for (address, distant) in [
            ("192.0.2.7", true),
            ("10.0.0.7", true),
            ("2001:db8::7", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("fe80::7", false),
            ("::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_distant(&address.parse().expect(address)), distant, "{address}");
        }
    }
}
