//! What listens, and what the firewall does with connections to it.

use std::collections::BTreeSet;

use super::{Check, Options};
use crate::host::firewall::{Finding, Firewall, Problem};
use crate::host::sockets::Listener;

pub(super) fn checks(listeners: &[Listener], firewall: &Firewall, options: &Options) -> Vec<Check> {
    let mut checks = vec![listening(listeners)];
    checks.extend(silent(listeners, options));
    checks.extend(listeners.iter().filter(|listener| listener.mptcp).map(mptcp));

    let concerns = |finding: &&Finding| concerns(finding, listeners, options);
    let mut rules: Vec<Check> =
        firewall.findings.iter().filter(concerns).filter_map(|finding| rule(finding, listeners)).collect();
    rules.extend(firewall.unchecked.iter().map(|reason| unchecked(reason)));
    if rules.is_empty() {
        rules.push(Check::ok("firewall", "no rule is in the way"));
    }
    checks.extend(rules);
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
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    Check::ok(
        "listeners",
        format!("on {} {}", if list.len() == 1 { "port" } else { "ports" }, list.join(", ")),
    )
}

/// Ports that are to be protected, but have no listener.
fn silent(listeners: &[Listener], options: &Options) -> Vec<Check> {
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

/// Whether a rule is for connections to one of the listeners by one of the interfaces.
fn concerns(finding: &Finding, listeners: &[Listener], options: &Options) -> bool {
    let interfaces = &options.interfaces;
    let arrives = interfaces.is_empty() || interfaces.iter().any(|interface| finding.is_on(interface));
    arrives && listeners.iter().any(|listener| finding.is_for(listener.address, listener.port))
}

fn rule(finding: &Finding, listeners: &[Listener]) -> Option<Check> {
    let what = concerned(finding, listeners);
    let rule = &finding.rule;
    if finding.vague {
        let found = format!("a rule is in the way of some ports, but of which could not be read: {rule}");
        return Some(Check::unknown("firewall", found, "look at it yourself, or install iptables-save"));
    }
    Some(match &finding.problem {
        Problem::Redirected { to } => Check::warn(
            "redirect",
            format!("connections to {what} go elsewhere ({to}), so that their SYNs pass: {rule}"),
            "to protect them, listen on this host without DNAT (docker: --network host)",
        ),
        Problem::Synproxy => Check::warn(
            "firewall",
            format!("synproxy answers SYNs to {what}, which defender leaves to it: {rule}"),
            "remove the rule to have defender in its place",
        ),
        Problem::SynsDropped => Check::warn(
            "firewall",
            format!("a rule for SYNs to {what} does not see those that are challenged: {rule}"),
            "match `ct state new` instead of TCP flags: it sees the ACK of a proven connection",
        ),
        Problem::SynsAccepted => Check::warn(
            "firewall",
            format!(
                "a rule lets in {what} by SYN alone; where the rest is dropped, challenged connections are too: {rule}"
            ),
            "match `ct state new` instead of TCP flags, or let the port in without them",
        ),
        Problem::OthersDropped => Check::fail(
            "firewall",
            format!(
                "a rule drops connections to {what} that do not begin with a SYN, as challenged ones: {rule}"
            ),
            "remove the rule: defender drops ACKs that no cookie vouches for",
        ),
        // Where conntrack is strict, its own check says so.
        Problem::InvalidDropped => return None,
    })
}

/// The listeners' ports that a rule is for.
fn concerned(finding: &Finding, listeners: &[Listener]) -> String {
    let ports: BTreeSet<u16> =
        listeners.iter().map(|listener| listener.port).filter(|port| finding.ports.contains(*port)).collect();
    let list: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{} {}", if list.len() == 1 { "port" } else { "ports" }, list.join(", "))
}

fn unchecked(reason: &str) -> Check {
    Check::unknown(
        "firewall",
        reason,
        "look for DNAT on protected ports and for rules that go by TCP flags yourself",
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::{Status, relevant};
    use super::*;
    use crate::host::sockets;
    use crate::host::testing::{in_namespace, shell};

    /// What is complained of with listeners on `127.0.0.1:79` and `0.0.0.0` 80 and 443 behind these rules.
    fn complaints(rules: &str, options: &Options) -> Vec<Check> {
        in_namespace(|| {
            let _listeners = ["127.0.0.1:79", "0.0.0.0:80", "0.0.0.0:443"]
                .map(|address| TcpListener::bind(address).unwrap());
            shell(&format!("nft -f - <<'END'\n{rules}\nEND"));
            let listeners = relevant(options, sockets::listeners().unwrap());
            let checks = checks(&listeners, &Firewall::read(), options);
            checks.into_iter().filter(|check| check.status != Status::Ok).collect()
        })
    }

    fn nat(rule: &str) -> String {
        format!("table ip t {{ chain c {{ type nat hook prerouting priority dstnat; {rule}; }}; }}")
    }

    fn input(rule: &str) -> String {
        format!("table ip t {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}")
    }

    #[test]
    fn services_behind_no_firewall_are_fine() {
        assert_eq!(complaints("", &Options::default()), []);
    }

    #[test]
    fn a_redirect_of_a_port_that_something_listens_on_is_told() {
        let seen = complaints(&nat("tcp dport 80 dnat to 10.0.0.2:8080"), &Options::default());
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].name, seen[0].status), ("redirect", Status::Warn));
        let expected = "connections to port 80 go elsewhere (10.0.0.2:8080), so that their SYNs pass: nft ip t c, handle 2";
        assert_eq!(seen[0].found, expected);
        // Nobody outside reaches 79; nothing listens on 81.
        assert_eq!(complaints(&nat("tcp dport { 79, 81 } redirect to :8080"), &Options::default()), []);
    }

    #[test]
    fn rules_for_another_interface_do_not_count() {
        let rule = nat("iifname docker0 tcp dport 80 redirect to :8080");
        let on = |name: &str| Options { interfaces: vec![name.to_owned()], ..Options::default() };
        assert_eq!(complaints(&rule, &on("eth0")), []);
        assert_eq!(complaints(&rule, &on("docker0")).len(), 1);
        assert_eq!(complaints(&rule, &Options::default()).len(), 1);
    }

    #[test]
    fn each_kind_of_rule_is_judged() {
        for (rule, status) in [
            ("tcp flags syn limit rate over 5/second drop", Status::Warn),
            ("tcp flags syn tcp dport 80 accept", Status::Warn),
            ("tcp flags != syn ct state new drop", Status::Fail),
            ("tcp dport 80 ct state invalid,untracked synproxy mss 1460", Status::Warn),
        ] {
            let seen = complaints(&input(rule), &Options::default());
            assert_eq!(
                seen.iter().map(|check| (check.name, check.status)).collect::<Vec<_>>(),
                [("firewall", status)],
                "{rule}"
            );
        }
        assert_eq!(complaints(&input("ct state invalid drop"), &Options::default()), []);
    }

    #[test]
    fn ports_asked_for_need_a_listener() {
        let options = Options { ports: [80, 81].into(), ..Options::default() };
        let seen = complaints("", &options);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].name, seen[0].subject.as_deref()), ("port", Some("81")));
    }

    #[test]
    fn mptcp_listeners_are_told() {
        let mut listener = in_namespace(|| {
            let _listener = TcpListener::bind("0.0.0.0:80").unwrap();
            sockets::listeners().unwrap().remove(0)
        });
        listener.mptcp = true;
        let seen = checks(&[listener], &Firewall::default(), &Options::default());
        assert!(seen.iter().any(|check| check.name == "mptcp" && check.subject.as_deref() == Some("80")));
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let firewall = Firewall { unchecked: vec!["nft is not installed".to_owned()], ..Firewall::default() };
        let seen = checks(&[], &firewall, &Options::default());
        let statuses: Vec<_> = seen.iter().map(|check| (check.name, check.status)).collect();
        assert_eq!(statuses, [("listeners", Status::Warn), ("firewall", Status::Unknown)]);
    }
}
