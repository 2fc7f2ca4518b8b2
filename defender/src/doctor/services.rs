//! Listeners, and how the firewall treats connections to them.

use std::collections::BTreeSet;

use super::{Check, Scope, UnprotectableService, relevant};
use crate::{
    host::firewall::{Destination, Firewall, Judgement, Tracking},
    model::{
        finding::{Effect, Finding},
        listener::Listener,
    },
};

/// The firewall's rules, and the interfaces that packets arrive on.
pub(super) struct FirewallRules {
    pub firewall: Firewall,
    /// The interfaces' names at the IP layer. Empty means any.
    pub arrive_by: Vec<String>,
    pub tracking: Tracking,
}

pub(super) fn checks(
    listeners: anyhow::Result<Vec<Listener>>,
    rules: &FirewallRules,
    options: &Scope,
) -> Vec<Check> {
    match listeners {
        Ok(listeners) => listed(&relevant(options, listeners), rules, options),
        Err(error) => vec![Check::fail(
            "listeners",
            format!("{error:#}"),
            "modprobe tcp_diag, or boot a kernel built with CONFIG_INET_TCP_DIAG: without, no service is found",
        )],
    }
}

/// A service that a running instance cannot protect, and why.
pub(super) fn unprotectable(service: &UnprotectableService) -> Check {
    let found = format!("cannot be protected: {}", service.reason);
    Check::warn("protection", found, "`defender status` and `defender events` say more")
        .about(service.port.to_string())
}

fn listed(listeners: &[Listener], rules: &FirewallRules, options: &Scope) -> Vec<Check> {
    let mut checks = vec![listening(listeners)];
    checks.extend(silent(listeners, options));
    checks.extend(listeners.iter().filter(|listener| listener.mptcp).map(mptcp));

    let in_the_way = in_the_way(listeners, rules);
    let unread = &rules.firewall.unchecked;
    if in_the_way.is_empty() && unread.is_empty() {
        checks.push(Check::ok("firewall", "no rule is in the way"));
    }
    checks.extend(in_the_way.iter().map(|(finding, ports)| rule(finding, ports)));
    checks.extend(unread.iter().map(|reason| unchecked(reason)));
    checks
}

fn listening(listeners: &[Listener]) -> Check {
    let ports: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
    if ports.is_empty() {
        return Check::warn(
            "listeners",
            "nothing listens on an address that clients elsewhere can reach",
            "start the service; `defender run` finds it then",
        );
    }
    Check::ok("listeners", format!("on {}", list(&ports)))
}

/// Ports to be protected that have no listener.
fn silent(listeners: &[Listener], options: &Scope) -> Vec<Check> {
    let has_listener = |port: u16| listeners.iter().any(|listener| listener.port == port);
    let ports = options.ports.iter().filter(|port| !has_listener(**port));
    ports
        .map(|port| {
            let found = "nothing listens there, in this network namespace";
            Check::warn("port", found, "start the service; its SYNs pass until then").about(port.to_string())
        })
        .collect()
}

fn mptcp(listener: &Listener) -> Check {
    Check::warn(
        "mptcp",
        format!(
            "the listener at {} speaks MPTCP: the kernel takes no hand-offs for it, so its SYNs pass",
            listener.address
        ),
        "switch MPTCP off in the service (Go: GODEBUG=multipathtcp=0), or net.mptcp.enabled=0 and restart it",
    )
    .about(listener.port.to_string())
}

/// The rules that block connections, each with the affected ports.
fn in_the_way(listeners: &[Listener], rules: &FirewallRules) -> Vec<(Finding, BTreeSet<u16>)> {
    let FirewallRules { firewall, arrive_by, tracking } = rules;
    let mut found: Vec<(Finding, BTreeSet<u16>)> = Vec::new();
    for listener in listeners {
        let (v4, v6) = (listener.accepts_v4(), listener.accepts_v6());
        let to = Destination { address: listener.address, port: listener.port, v4, v6 };
        let Judgement { obstacle, warnings } = firewall.judge(arrive_by, &to, *tracking);
        for finding in obstacle.into_iter().chain(warnings) {
            match found.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, ports)) => drop(ports.insert(listener.port)),
                None => found.push((finding, [listener.port].into())),
            }
        }
    }
    found
}

fn rule(finding: &Finding, ports: &BTreeSet<u16>) -> Check {
    let found = format!("{}: {finding}: {}", list(ports), finding.rule);
    match finding.effect {
        Effect::Redirected { .. } => Check::warn("redirect", found, finding.advice()),
        Effect::Nat
        | Effect::SynRequired
        | Effect::OnlySynsAccepted { .. }
        | Effect::OnlySynsDropped
        | Effect::InvalidDropped => Check::fail("firewall", found, finding.advice()),
        Effect::Synproxy | Effect::Closed | Effect::SynsLimited | Effect::NewLimited => {
            Check::warn("firewall", found, finding.advice())
        }
    }
}

fn list(ports: &BTreeSet<u16>) -> String {
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{} {}", if list.len() == 1 { "port" } else { "ports" }, list.join(", "))
}

fn unchecked(reason: &str) -> Check {
    Check::unknown("firewall", reason, "check for DNAT on protected ports and for rules that match TCP flags")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::Status;
    use super::*;
    use crate::host::sockets;
    use crate::host::testing::{in_namespace, shell};

    /// The checks that are not ok for listeners on `127.0.0.1:79` and on `0.0.0.0` ports 80 and 443 behind
    /// these rules.
    fn complaints(rules: &str, options: &Scope) -> Vec<Check> {
        in_namespace(|| {
            let _listeners = ["127.0.0.1:79", "0.0.0.0:80", "0.0.0.0:443"]
                .map(|address| TcpListener::bind(address).unwrap());
            shell(&format!("nft -f - <<'END'\n{rules}\nEND"));
            let arrive_by = options.interfaces.clone();
            let rules = FirewallRules {
                firewall: Firewall::read(std::time::Duration::from_secs(60)),
                arrive_by,
                tracking: LOOSE,
            };
            let checks = checks(sockets::listeners(), &rules, options);
            checks.into_iter().filter(|check| check.status != Status::Ok).collect()
        })
    }

    const LOOSE: Tracking = Tracking { loose: true, one_new: false };

    fn rules(firewall: Firewall) -> FirewallRules {
        FirewallRules { firewall, arrive_by: Vec::new(), tracking: LOOSE }
    }

    fn nat(rule: &str) -> String {
        format!("table ip t {{ chain c {{ type nat hook prerouting priority dstnat; {rule}; }}; }}")
    }

    fn input(rule: &str) -> String {
        format!("table ip t {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}")
    }

    #[test]
    fn services_behind_no_firewall_are_fine() {
        assert_eq!(complaints("", &Scope::default()), []);
    }

    #[test]
    fn a_redirect_of_a_port_with_a_listener_is_reported() {
        let seen = complaints(&nat("tcp dport 80 dnat to 10.0.0.2:8080"), &Scope::default());
        // For the other port, the only obstacle is NAT.
        assert_eq!(seen.len(), 2);
        assert_eq!((seen[0].name, seen[0].status), ("redirect", Status::Warn));
        assert_eq!((seen[1].name, seen[1].status), ("firewall", Status::Fail));
        let expected = "port 80: a firewall rule sends its connections to 10.0.0.2:8080 before the listener sees them: \
                        nft ip t c, handle 2";
        assert_eq!(seen[0].found, expected);
        // No external client reaches 79, and nothing listens on 81.
        let seen = complaints(&nat("tcp dport { 79, 81 } redirect to :8080"), &Scope::default());
        assert!(seen.iter().all(|check| check.name != "redirect"), "{seen:?}");
    }

    #[test]
    fn rules_for_another_interface_do_not_count() {
        let rule = input("iifname docker0 tcp dport 80 ct state new tcp flags != syn drop");
        let on = |name: &str| Scope { interfaces: vec![name.to_owned()], ..Scope::default() };
        assert_eq!(complaints(&rule, &on("eth0")), []);
        assert_eq!(complaints(&rule, &on("docker0")).len(), 1);
        assert_eq!(complaints(&rule, &Scope::default()).len(), 1);
    }

    #[test]
    fn each_kind_of_rule_is_judged() {
        for (rule, status) in [
            ("tcp flags syn limit rate over 5/second drop", Status::Warn),
            ("tcp flags syn accept; ct state new drop", Status::Fail),
            ("tcp flags syn ip saddr 198.51.100.0/24 drop", Status::Fail),
            ("ct state new tcp dport 80 limit rate over 3/minute drop", Status::Warn),
            ("drop", Status::Warn),
            ("tcp flags != syn ct state new drop", Status::Fail),
            ("tcp dport 80 ct state invalid,untracked synproxy mss 1460", Status::Warn),
        ] {
            let seen = complaints(&input(rule), &Scope::default());
            assert_eq!(
                seen.iter().map(|check| (check.name, check.status)).collect::<Vec<_>>(),
                [("firewall", status)],
                "{rule}"
            );
        }
        assert_eq!(complaints(&input("ct state invalid drop"), &Scope::default()), []);
    }

    #[test]
    fn ports_asked_for_need_a_listener() {
        let options = Scope { ports: [80, 81].into(), ..Scope::default() };
        let seen = complaints("", &options);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].name, seen[0].subject.as_deref()), ("port", Some("81")));
    }

    #[test]
    fn mptcp_listeners_are_reported() {
        let mut listener = in_namespace(|| {
            let _listener = TcpListener::bind("0.0.0.0:80").unwrap();
            sockets::listeners().unwrap().remove(0)
        });
        listener.mptcp = true;
        let seen = checks(Ok(vec![listener]), &rules(Firewall::default()), &Scope::default());
        assert!(seen.iter().any(|check| check.name == "mptcp" && check.subject.as_deref() == Some("80")));
    }

    #[test]
    fn a_kernel_that_lists_no_sockets_is_reported() {
        let seen =
            checks(Err(anyhow::anyhow!("no tcp_diag")), &rules(Firewall::default()), &Scope::default());
        assert_eq!((seen.len(), seen[0].name, seen[0].status), (1, "listeners", Status::Fail));
        assert!(seen[0].advice.as_ref().is_some_and(|advice| advice.contains("modprobe tcp_diag")));
    }

    #[test]
    fn services_that_a_running_defender_cannot_protect_are_reported() {
        let check = unprotectable(&UnprotectableService { port: 443, reason: "it is MPTCP".to_owned() });
        assert_eq!((check.status, check.subject.as_deref()), (Status::Warn, Some("443")));
        assert_eq!(check.found, "cannot be protected: it is MPTCP");
    }

    #[test]
    fn unreadable_rules_are_unknown() {
        let firewall = Firewall::unread("nft is not installed", false);
        let seen = checks(Ok(Vec::new()), &rules(firewall), &Scope::default());
        let statuses: Vec<_> = seen.iter().map(|check| (check.name, check.status)).collect();
        assert_eq!(statuses, [("listeners", Status::Warn), ("firewall", Status::Unknown)]);
    }
}
