//! Rules as `iptables-save` prints them (iptables-save(8), iptables-extensions(8)).

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;

use super::ruleset::{Action, Chain, ChainId, Conditions, Rule, Ruleset};
use super::{Ports, Tool, list, parse_prefix};

/// One of the two sets of tables that iptables may work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Nftables,
    Legacy,
}

/// Reads what iptables and ip6tables list into `rules`. Returns the tables that it keeps in nftables, as nft names
/// them; what could not be read goes to `unchecked`.
pub(super) fn read(rules: &mut Ruleset, unchecked: &mut Vec<String>) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    for (command, family) in [("iptables", "ip"), ("ip6tables", "ip6")] {
        let legacy_tables = fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        let legacy_tables = legacy_tables.unwrap_or_default();
        let mut seen = Vec::new();
        let variants = [("", None), ("-nft", Some(Backend::Nftables)), ("-legacy", Some(Backend::Legacy))];
        for (variant, backend) in variants {
            // The legacy tool is asked only where it has tables: it would create them.
            let idle = backend == Some(Backend::Legacy) && legacy_tables.trim().is_empty();
            if idle || backend.is_some_and(|backend| seen.contains(&backend)) {
                continue;
            }
            let tool = format!("{command}{variant}-save");
            match list(&tool, &[]) {
                Tool::Printed(text) if text.trim().is_empty() => {}
                Tool::Printed(text) => {
                    let backend = backend_of(&text);
                    seen.push(backend);
                    let names = parse(&text, command, backend, rules);
                    if backend == Backend::Nftables {
                        tables.extend(names.into_iter().map(|name| format!("{family} {name}")));
                    }
                }
                Tool::Missing => {}
                Tool::Failed(reason) => unchecked.push(format!("{tool} failed: {reason}")),
            }
        }
        if !legacy_tables.trim().is_empty() && !seen.contains(&Backend::Legacy) {
            unchecked.push(format!(
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

/// Adds the chains and rules of a listing; returns the names of its tables.
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
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next().unwrap_or_default();
            let entry = matches!(name, "INPUT" | "PREROUTING");
            rules.chains.insert(id(table, name), Chain { entry, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (name, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            let (conditions, action) = parse_rule(&words(rest));
            let place = format!("{command} -t {table} {line}");
            rules.chains.entry(id(table, name)).or_default().rules.push(Rule { place, conditions, action });
        }
    }
    tables
}

/// The words of a line; quotes hold comments with spaces together.
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

fn parse_rule(words: &[String]) -> (Conditions, Action) {
    let mut conditions = Conditions::any();
    let mut action = Action::None;
    let mut to = None;
    let mut words = words.iter().map(String::as_str).peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        match word {
            "-p" => conditions.tcp &= matches!(value(), "tcp" | "6" | "all" | "0") != negated,
            "-d" if !negated => conditions.destination = parse_prefix(value()),
            // iptables writes eth+ for what begins with eth.
            "-i" if !negated => conditions.interface = Some(value().replace('+', "*")),
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => {
                narrow(&mut conditions, value(), negated);
            }
            // Source or destination: either may fit. A set may be of ports.
            "--ports" | "--match-set" => conditions.vague = true,
            "--tcp-flags" => {
                let (mask, flags) = (flags(value()), flags(value()));
                conditions.test_flags(|packet| (packet & mask == flags) != negated);
            }
            "--syn" => {
                conditions
                    .test_flags(|packet| (packet & flags("FIN,SYN,RST,ACK") == flags("SYN")) != negated);
            }
            "--ctstate" | "--state" => {
                let states = value();
                let is = |state: &str| states.split(',').any(|it| it == state) != negated;
                conditions.new &= is("NEW");
                conditions.invalid &= is("INVALID");
            }
            "--to-destination" | "--to-ports" | "--on-port" | "--to" => to = Some(value().to_owned()),
            "-j" | "-g" => action = target(value()),
            _ => {}
        }
        negated = false;
    }
    if let (Action::Redirect { to: place }, Some(to)) = (&mut action, to) {
        *place = to;
    }
    (conditions, action)
}

fn target(name: &str) -> Action {
    match name {
        "ACCEPT" => Action::Accept,
        "DROP" | "REJECT" | "TARPIT" => Action::Drop,
        "DNAT" | "REDIRECT" | "TPROXY" | "NETMAP" => Action::Redirect { to: name.to_owned() },
        "SYNPROXY" => Action::Synproxy,
        // A chain of the same table, or a target that changes nothing here: then there is no such chain.
        _ => Action::Call(name.to_owned()),
    }
}

fn narrow(conditions: &mut Conditions, text: &str, negated: bool) {
    let ports: Option<Ports> = text.split(',').map(port_range).collect();
    match ports {
        Some(ports) if negated => conditions.ports = conditions.ports.intersection(&ports.complement()),
        Some(ports) => conditions.ports = conditions.ports.intersection(&ports),
        None => conditions.vague = true,
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

/// The TCP flags that a list names.
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
    use super::super::ruleset::findings;
    use super::super::{Finding, Problem};
    use super::*;

    /// Printed by iptables-save 1.8.9 for what docker sets up for one published port, a proxy's redirect, and five
    /// rules that hardening guides give.
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

    fn found(text: &str) -> Vec<Finding> {
        let mut rules = Ruleset::default();
        parse(text, "iptables", backend_of(text), &mut rules);
        findings(&rules)
    }

    fn redirected(to: &str) -> Problem {
        Problem::Redirected { to: to.to_owned() }
    }

    #[test]
    fn a_real_listing_gives_its_rules() {
        let seen: Vec<_> =
            found(SAVED).into_iter().map(|finding| (finding.problem, finding.ports.to_string())).collect();
        let expected = [
            (Problem::SynsAccepted, "port 22"),
            (Problem::SynsDropped, "all ports"),
            (Problem::OthersDropped, "all ports"),
            (Problem::InvalidDropped, "all ports"),
            (Problem::SynsDropped, "port 80"),
            (redirected("172.17.0.2:80"), "port 8080"),
            (redirected("3128"), "ports 9000, 9100-9110"),
        ];
        assert_eq!(seen, expected.map(|(problem, ports)| (problem, ports.to_owned())));
    }

    #[test]
    fn a_rule_is_given_as_it_is_typed() {
        let rules: Vec<_> = found(SAVED).into_iter().map(|finding| finding.rule).collect();
        assert_eq!(
            rules[5],
            "iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80"
        );
    }

    /// The one finding for a rule in PREROUTING.
    fn one(rule: &str) -> Option<Finding> {
        let mut found =
            found(&format!("# v1.8.9\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule}\nCOMMIT\n"));
        assert!(found.len() <= 1, "{found:?}");
        found.pop()
    }

    #[test]
    fn conditions_are_understood() {
        let ports = |rule: &str| one(rule).map(|finding| finding.ports.to_string());
        assert_eq!(ports("-p tcp -m tcp --dport 80:90 -j REDIRECT").as_deref(), Some("ports 80-90"));
        assert_eq!(ports("-p tcp -m tcp ! --dport 22 -j REDIRECT").as_deref(), Some("ports 0-21, 23-65535"));
        assert_eq!(ports("! -p tcp -j REDIRECT"), None);
        assert_eq!(ports("! -p udp -j REDIRECT").as_deref(), Some("all ports"));
        assert_eq!(ports("-p tcp -m tcp --syn -j DROP").as_deref(), Some("all ports"));
        assert_eq!(ports("-p tcp -m state --state NEW -j DROP"), None);

        let narrow = one("-d 192.0.2.0/24 -i eth+ -p tcp -j DNAT --to-destination 10.0.0.1").unwrap();
        assert_eq!(narrow.destination, Some(("192.0.2.0".parse().unwrap(), 24)));
        assert!(narrow.applies("eth1", "192.0.2.9".parse().unwrap(), 5));
        assert!(narrow.applies("eth1", "0.0.0.0".parse().unwrap(), 5));
        assert!(!narrow.applies("eth1", "192.0.3.9".parse().unwrap(), 5));
        assert!(!narrow.applies("ens1", "192.0.2.9".parse().unwrap(), 5));
        assert!(!narrow.applies("eth1", "2001:db8::1".parse().unwrap(), 5));
    }

    #[test]
    fn a_set_that_cannot_be_read_is_told() {
        assert!(one("-p tcp -m set --match-set ports dst -j REDIRECT").unwrap().vague);
    }

    #[test]
    fn chains_that_call_each_other_end() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n-A PREROUTING -j A\n-A A -j A\n-A A -p tcp -j REDIRECT\n";
        assert_eq!(found(text).len(), 1);
    }
}
