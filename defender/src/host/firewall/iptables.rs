//! Rules as `iptables-save` prints them (iptables-save(8), iptables-extensions(8)).

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::time::Instant;

use super::ruleset::{
    Base, Chain, ChainId, Condition, Fit, Limit, Nat, NetfilterHook, Rule, RuleAction, Ruleset,
};
use super::{Firewall, PortSet, Tool, list, parse_prefix};

/// One of the two backends that iptables may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Nftables,
    Legacy,
}

/// Reads the listings of iptables and ip6tables. Returns the tables that iptables keeps in nftables, by
/// their nft names.
pub(super) fn read(firewall: &mut Firewall, deadline: Instant) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    for (command, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        let legacy_tables = fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        let legacy_tables = legacy_tables.unwrap_or_default();
        let mut seen = Vec::new();
        let variants = [("", None), ("-nft", Some(Backend::Nftables)), ("-legacy", Some(Backend::Legacy))];
        for (variant, backend) in variants {
            // Run the legacy tool only where it has tables: running it would create them.
            let idle = backend == Some(Backend::Legacy) && legacy_tables.trim().is_empty();
            if idle || backend.is_some_and(|backend| seen.contains(&backend)) {
                continue;
            }
            let tool = format!("{command}{variant}-save");
            match list(&tool, &[], deadline) {
                Tool::Printed(text) if text.trim().is_empty() => {}
                Tool::Printed(text) => {
                    let backend = backend_of(&text);
                    seen.push(backend);
                    let names = parse(&text, command, backend, &mut firewall.rules);
                    if backend == Backend::Nftables {
                        tables.extend(names.into_iter().map(|name| format!("{family} {name}")));
                    }
                }
                Tool::Missing => {}
                Tool::Failed(reason) => firewall.could_not_run(&tool, &reason),
            }
        }
        if !legacy_tables.trim().is_empty() && !seen.contains(&Backend::Legacy) {
            firewall.unchecked.push(format!(
                "{command} has legacy tables ({}), but {command}-legacy-save cannot list them",
                legacy_tables.split_whitespace().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    tables
}

fn backend_of(text: &str) -> Backend {
    let first = text.lines().next().unwrap_or_default();
    if first.contains("(nf_tables)") { Backend::Nftables } else { Backend::Legacy }
}

/// Adds the chains and rules of a listing. Returns the names of its tables.
fn parse(text: &str, command: &str, backend: Backend, rules: &mut Ruleset) -> Vec<String> {
    let command = match backend {
        Backend::Nftables => command.to_owned(),
        Backend::Legacy => format!("{command}-legacy"),
    };
    let mut tables = Vec::new();
    let mut table = "";
    let id = |table: &str, name: &str| ChainId { table: format!("{command} {table}"), name: name.to_owned() };
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.trim();
            tables.push(table.to_owned());
            if table == "nat" {
                let conditions = vec![Condition::Version { v6: command.starts_with("ip6") }];
                rules.nat.push(Nat { conditions, place: format!("{command} -t nat") });
            }
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next());
            let base = base(&command, table, name, policy.unwrap_or_default());
            rules.chains.insert(id(table, name), Chain { base, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (name, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            let place = format!("{command} -t {table} {line}");
            rules.chains.entry(id(table, name)).or_default().rules.push(parse_rule(place, &words(rest)));
        }
    }
    tables
}

/// The words of a line. Quotes keep comments with spaces together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a chain of this name is a base chain for packets to this host, and its properties.
fn base(command: &str, table: &str, name: &str, policy: &str) -> Option<Base> {
    let hook = match name {
        "PREROUTING" => NetfilterHook::Prerouting,
        "INPUT" => NetfilterHook::Input,
        _ => return None,
    };
    let priority = match table {
        "raw" => -300,
        "mangle" => -150,
        "nat" => -100,
        "security" => 50,
        _ => 0,
    };
    Some(Base {
        hook,
        priority,
        nat: table == "nat",
        conditions: vec![Condition::Version { v6: command.starts_with("ip6") }],
        drops: policy == "DROP",
        place: format!("{command} -t {table} -P {name} {policy}"),
    })
}

/// A partly read rule.
#[derive(Default)]
struct IptablesRule {
    conditions: Vec<Condition>,
    limit: Option<Limit>,
    action: Option<RuleAction>,
    /// Target of DNAT and similar actions.
    to: Option<String>,
    notrack: bool,
    /// `recent` looks up clients. It is a limit if it counts their packets.
    looks_up: bool,
    counts: bool,
}

fn parse_rule(place: String, words: &[String]) -> Rule {
    let mut reading = IptablesRule::default();
    let mut words = words.iter().map(String::as_str).peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        // A flag without a value is followed by another option or by the end.
        let has_value = words.peek().is_some_and(|next| !next.starts_with('-') && *next != "!");
        let value = if word == "--comment" || has_value && word != "-f" {
            words.next().unwrap_or_default()
        } else {
            ""
        };
        let mut second = || words.next().unwrap_or_default();
        reading.option(word, value, &mut second, negated);
        negated = false;
    }
    reading.rule(place)
}

impl IptablesRule {
    fn option<'w>(&mut self, word: &str, value: &'w str, second: &mut dyn FnMut() -> &'w str, negated: bool) {
        let condition = match word {
            "-p" if matches!(value, "tcp" | "6" | "all" | "0") == negated => Condition::Never,
            "-d" => match parse_prefix(value) {
                Some(prefix) => Condition::Destination { prefixes: vec![prefix], negated },
                None => Condition::OfConnection,
            },
            // iptables writes `eth+` for names that begin with `eth`.
            "-i" => Condition::Interface { names: vec![value.replace('+', "*")], negated },
            // TCP never receives fragments.
            "-f" if !negated => Condition::Never,
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => ports(value, negated),
            "-s" | "--sport" | "--sports" | "--ports" | "--src-range" | "--dst-range" => {
                Condition::OfConnection
            }
            "--tcp-flags" => {
                let (mask, set) = (flags(value), flags(second()));
                Condition::flags(|packet| (packet & mask == set) != negated)
            }
            "--syn" => {
                Condition::flags(|packet| (packet & flags("FIN,SYN,RST,ACK") == flags("SYN")) != negated)
            }
            "--ctstate" | "--state" => Condition::states(value.split(','), negated),
            // Only a SYN carries an MSS. Packets without one do not match.
            "--mss" => {
                Condition::OfPacket { syn: Fit::Perhaps, ack: if negated { Fit::Yes } else { Fit::No } }
            }
            "--dst-type" if value.split(',').any(|kind| kind == "LOCAL") == negated => Condition::Never,
            "--src-type" => Condition::OfConnection,
            "--tcp-option" => Condition::OfPacket { syn: Fit::Perhaps, ack: Fit::Perhaps },
            "-m" => match module(value) {
                Some(condition) => condition,
                None => return,
            },
            _ => return self.other(word, value, negated),
        };
        self.conditions.push(condition);
    }

    fn other(&mut self, word: &str, value: &str, negated: bool) {
        match word {
            "--limit" | "--hashlimit-upto" => self.limit = Some(Limit::rate(false)),
            "--hashlimit-above" => self.limit = Some(Limit::rate(true)),
            "--connlimit-above" | "--connlimit-upto" => {
                let beyond = (word == "--connlimit-above") != negated;
                self.limit = Some(Limit { beyond, connections: true });
            }
            "--rcheck" | "--update" => self.looks_up = true,
            "--hitcount" => self.counts = true,
            "--to-destination" | "--to-ports" | "--on-port" | "--to" => self.to = Some(value.to_owned()),
            "--notrack" => self.notrack = true,
            "-j" => self.action = Some(target(value, false)),
            "-g" => self.action = Some(target(value, true)),
            _ => {}
        }
    }

    fn rule(mut self, place: String) -> Rule {
        if self.looks_up && self.counts {
            self.limit = Some(Limit::rate(true));
        } else if self.looks_up {
            self.conditions.push(Condition::OfConnection);
        }
        let action = match (self.action.unwrap_or(RuleAction::None), self.to) {
            (RuleAction::Redirect { .. }, Some(to)) => RuleAction::Redirect { to },
            (action, _) if !self.notrack => action,
            _ => RuleAction::Notrack,
        };
        Rule { place, conditions: self.conditions, limit: self.limit, action }
    }
}

/// What an extension tests, if its options do not say.
fn module(name: &str) -> Option<Condition> {
    Some(match name {
        "tcp" | "conntrack" | "state" | "multiport" | "comment" | "iprange" | "tcpmss" => return None,
        "limit" | "hashlimit" | "connlimit" | "recent" | "addrtype" => return None,
        "udp" | "udplite" | "icmp" | "icmp6" | "ipv6-icmp" | "sctp" | "dccp" | "esp" | "ah" => {
            Condition::Never
        }
        "length" | "u32" | "string" | "bpf" | "statistic" => {
            Condition::OfPacket { syn: Fit::Perhaps, ack: Fit::Perhaps }
        }
        // It matches only SYNs.
        "osf" => Condition::OfPacket { syn: Fit::Perhaps, ack: Fit::No },
        // Who the client is, its path, the time. A set may hold its address, or ports.
        _ => Condition::OfConnection,
    })
}

fn target(name: &str, goto: bool) -> RuleAction {
    match name {
        "ACCEPT" => RuleAction::Accept,
        "DROP" | "REJECT" | "TARPIT" => RuleAction::Drop,
        "RETURN" => RuleAction::Return,
        "NOTRACK" => RuleAction::Notrack,
        "DNAT" | "REDIRECT" | "TPROXY" | "NETMAP" => RuleAction::Redirect { to: name.to_owned() },
        "SYNPROXY" => RuleAction::Synproxy,
        // A chain of the same table, or a target that has no effect here and no chain.
        _ => RuleAction::Call { chain: name.to_owned(), goto },
    }
}

fn ports(text: &str, negated: bool) -> Condition {
    let ports: Option<PortSet> = text.split(',').map(port_range).collect();
    match ports {
        Some(ports) if negated => Condition::Port(ports.complement()),
        Some(ports) => Condition::Port(ports),
        None => Condition::OfConnection,
    }
}

/// `80`, `80:90`, `:90` or `80:`.
fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let Some((first, last)) = text.split_once(':') else {
        let port = text.parse().ok()?;
        return Some(port..=port);
    };
    let bound = |text: &str, missing: u16| if text.is_empty() { Some(missing) } else { text.parse().ok() };
    Some(bound(first, 0)?..=bound(last, u16::MAX)?)
}

/// The TCP flags in a list.
fn flags(list: &str) -> u8 {
    list.split(',').map(flag).fold(0, |all, flag| all | flag)
}

fn flag(name: &str) -> u8 {
    match name {
        "FIN" => 0x01,
        "SYN" => 0x02,
        "RST" => 0x04,
        "PSH" => 0x08,
        "ACK" => 0x10,
        "URG" => 0x20,
        "ALL" => 0x3f,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{Destination, Judgement, Tracking};
    use super::*;
    use crate::model::finding::{Effect, Finding};

    /// Output of iptables-save 1.8.9 for a port published by docker, a proxy's redirect, and five rules
    /// from hardening guides.
    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables) on Sun Nov 22 11:59:59 2026
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -m limit --limit 10/sec -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m hashlimit --hashlimit-above 20/sec --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name syn -j DROP
-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -m comment --comment "not a \"SYN\"" -j DROP
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr -j REJECT --reject-with tcp-reset
COMMIT
# Completed on Sun Nov 22 11:59:59 2026
# Generated by iptables-save v1.8.9 (nf_tables) on Sun Nov 22 11:59:59 2026
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -p tcp -m multiport --dports 9000,9100:9110 -j REDIRECT --to-ports 3128
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.2:53
COMMIT
# Completed on Sun Nov 22 11:59:59 2026
"#;

    fn firewall(text: &str) -> Firewall {
        let mut firewall = Firewall::default();
        parse(text, "iptables", backend_of(text), &mut firewall.rules);
        firewall
    }

    /// What blocks connections to this address and port through `eth0`.
    fn found(firewall: &Firewall, address: &str, port: u16) -> Vec<Finding> {
        let address: IpAddr = address.parse().unwrap();
        let service = Destination { address, port, v4: true, v6: false };
        let tracking = Tracking { loose: true, one_new: false };
        let Judgement { obstacle, warnings } = firewall.judge(&["eth0".to_owned()], &service, tracking);
        obstacle.into_iter().chain(warnings).collect()
    }

    fn on_port(firewall: &Firewall, port: u16) -> Vec<Effect> {
        found(firewall, "0.0.0.0", port).into_iter().map(|finding| finding.effect).collect()
    }

    fn redirected(to: &str) -> Effect {
        Effect::Redirected { to: to.to_owned() }
    }

    #[test]
    fn a_real_listing_gives_its_rules() {
        let whole = firewall(SAVED);
        assert_eq!(on_port(&whole, 80)[..1], [Effect::Nat]);
        assert_eq!(on_port(&whole, 8080)[0], redirected("172.17.0.2:80"));
        assert_eq!(on_port(&whole, 9105)[0], redirected("3128"));
        assert_eq!(on_port(&whole, 9111)[0], Effect::Nat);
        // Without NAT, port 22 accepts SYNs by itself. The other ports behave as before.
        let alone = firewall(SAVED.split("# Completed").next().unwrap());
        assert!(matches!(on_port(&alone, 22)[..], [Effect::OnlySynsAccepted { .. }]));
        assert_eq!(on_port(&alone, 80), [Effect::SynRequired]);
    }

    #[test]
    fn a_rule_is_given_as_it_is_typed() {
        assert_eq!(
            found(&firewall(SAVED), "0.0.0.0", 8080)[0].rule,
            "iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
        );
    }

    fn nat(rule: &str) -> Firewall {
        firewall(&format!("# v1.8.9\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule}\nCOMMIT\n"))
    }

    /// Rules of an INPUT chain that accepts port 80 and established connections and drops the rest. Chain C
    /// limits floods.
    fn input(rules: &[&str]) -> Firewall {
        let first = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
        let all = [&[first], rules, &["-p tcp --dport 80 -j ACCEPT"]].concat();
        let rules: String = all.iter().map(|rule| format!("-A INPUT {rule}\n")).collect();
        let flood = "-A C -m limit --limit 9/s -j RETURN\n-A C -j DROP";
        firewall(&format!("# v1.8.9\n*filter\n:INPUT DROP [0:0]\n:C - [0:0]\n{rules}{flood}\nCOMMIT\n"))
    }

    #[test]
    fn conditions_are_understood() {
        let is_redirect = |it: &Effect| matches!(it, Effect::Redirected { .. });
        let redirects = |rule: &str, port| on_port(&nat(rule), port).iter().any(is_redirect);
        assert!(redirects("-p tcp -m tcp --dport 80:90 -j REDIRECT", 85));
        assert!(!redirects("-p tcp -m tcp --dport 80:90 -j REDIRECT", 91));
        assert!(redirects("-p tcp -m tcp ! --dport 22 -j REDIRECT", 23));
        assert!(!redirects("-p tcp -m tcp ! --dport 22 -j REDIRECT", 22));
        assert!(!redirects("! -p tcp -j REDIRECT", 80));
        assert!(redirects("! -p udp -j REDIRECT", 80));
        assert!(!redirects("-f -p tcp -j REDIRECT", 80));
        assert!(redirects("-p tcp -m comment --comment -x -j REDIRECT", 80));

        let rule = "-d 192.0.2.0/24 -i eth+ -p tcp -j DNAT --to-destination 10.0.0.1";
        let at = |rule: &str, address: &str| is_redirect(&found(&nat(rule), address, 5)[0].effect);
        assert!(at(rule, "192.0.2.9"));
        assert!(at(rule, "0.0.0.0"));
        assert!(!at(rule, "192.0.3.9"));
        assert!(!at(&rule.replace("eth+", "ens+"), "192.0.2.9"));
        assert!(!at(&rule.replace("-i", "! -i"), "192.0.2.9"));
        assert!(at(&rule.replace("-d", "! -d"), "192.0.3.9"));
        assert!(!at(&rule.replace("-d", "! -d"), "192.0.2.9"));
    }

    #[test]
    fn a_set_that_cannot_be_read_may_be_for_any_port() {
        let firewall = nat("-p tcp -m set --match-set ports dst -j REDIRECT");
        assert_eq!(on_port(&firewall, 80)[0], redirected("REDIRECT"));
    }

    #[test]
    fn rules_of_guides_are_judged() {
        let none: &[Effect] = &[];
        for (rules, expected) in [
            (&["-m set --match-set blocked src -j DROP"][..], none),
            (&["-m conntrack --ctstate INVALID -j DROP"], none),
            (&["-p tcp --tcp-flags FIN,SYN FIN,SYN -j DROP", "-p tcp --tcp-flags ALL NONE -j DROP"], none),
            (&["-m addrtype --dst-type BROADCAST -j DROP", "-m limit --limit 3/min -j LOG"], none),
            (&["-p tcp -m conntrack --ctstate NEW -m recent --set --name x"], none),
            (&["-p tcp ! --syn -m conntrack --ctstate NEW -j DROP"], &[Effect::SynRequired]),
            (&["-p tcp ! --syn -m state --state NEW -j REJECT"], &[Effect::SynRequired]),
            (
                &["-p tcp -m conntrack --ctstate NEW -m tcpmss ! --mss 536:65535 -j DROP"],
                &[Effect::SynRequired, Effect::SynRequired],
            ),
            (&["-p tcp --syn -m tcpmss --mss 1:500 -j DROP"], &[Effect::SynsLimited]),
            (&["-p tcp --syn -j C"], &[Effect::SynsLimited]),
            (&["-p tcp --syn -m connlimit --connlimit-above 20 -j REJECT"], &[Effect::SynsLimited]),
            (&["-p tcp --syn -s 198.51.100.0/24 -j DROP"], &[Effect::OnlySynsDropped]),
            (
                &["-m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 -j DROP"],
                &[Effect::NewLimited],
            ),
            (
                &[
                    "-m conntrack --ctstate NEW -m hashlimit --hashlimit-above 9/sec --hashlimit-name x -j DROP",
                ],
                &[Effect::NewLimited],
            ),
        ] {
            let seen = on_port(&input(rules), 80);
            assert!(
                seen.iter().all(|it| expected.contains(it)) && seen.is_empty() == expected.is_empty(),
                "{rules:?}: {seen:?}"
            );
        }
        assert_eq!(on_port(&input(&[]), 81), [Effect::Closed]);
        let last = input(&["-p tcp --syn --dport 80 -j ACCEPT", "-p tcp -j DROP"]);
        assert!(matches!(on_port(&last, 80)[..], [Effect::OnlySynsAccepted { .. }]));
    }

    #[test]
    fn chains_that_call_each_other_end() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n-A PREROUTING -j A\n-A A -j A\n-A A -p tcp -j REDIRECT\n";
        assert_eq!(on_port(&firewall(text), 80)[0], redirected("REDIRECT"));
    }
}
