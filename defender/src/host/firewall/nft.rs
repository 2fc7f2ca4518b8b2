//! Rules as `nft -j list ruleset` prints them (libnftables-json(5)).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ruleset::{Action, Chain, ChainId, Conditions, Rule, Ruleset};
use super::{Ports, Tool, list, parse_prefix};

/// Reads what nft lists into `rules`, but for the tables in `known`; what could not be read goes to `unchecked`.
pub(super) fn read(rules: &mut Ruleset, known: &BTreeSet<String>, unchecked: &mut Vec<String>) {
    match list("nft", &["-j", "list", "ruleset"]) {
        Tool::Printed(text) => {
            if let Err(error) = parse(&text, known, rules) {
                unchecked.push(format!("nft printed what is no JSON: {error}"));
            }
        }
        Tool::Missing => {
            unchecked.push("nft is not installed, so that nftables' rules could not be read".to_owned());
        }
        Tool::Failed(reason) => unchecked.push(format!("nft failed: {reason}")),
    }
}

/// The elements of sets and maps, by table and name.
type Sets<'a> = BTreeMap<(String, &'a str), &'a Value>;

fn parse(text: &str, known: &BTreeSet<String>, rules: &mut Ruleset) -> serde_json::Result<()> {
    let ruleset: Value = serde_json::from_str(text)?;
    let objects = elements(&ruleset["nftables"]);
    let of = |kind: &'static str| objects.iter().map(move |object| &object[kind]).filter(|it| it.is_object());

    let sets: Sets =
        of("set").chain(of("map")).map(|set| ((table_of(set), string(&set["name"])), &set["elem"])).collect();
    for chain in of("chain").filter(|chain| !known.contains(&table_of(chain))) {
        rules.chains.insert(chain_id(chain, "name"), Chain { entry: is_entry(chain), rules: Vec::new() });
    }
    for rule in of("rule").filter(|rule| !known.contains(&table_of(rule))) {
        let id = chain_id(rule, "chain");
        let place = format!("nft {} {}, handle {}", id.table, id.name, rule["handle"]);
        let reader = Reader { table: &id.table, sets: &sets };
        let chain = rules.chains.entry(id.clone()).or_default();
        chain.rules.extend(
            reader.rule(elements(&rule["expr"])).into_iter().map(|(conditions, action)| Rule {
                place: place.clone(),
                conditions,
                action,
            }),
        );
    }
    Ok(())
}

fn table_of(object: &Value) -> String {
    let name = object.get("table").unwrap_or(&object["name"]);
    format!("{} {}", string(&object["family"]), string(name))
}

fn chain_id(object: &Value, name: &str) -> ChainId {
    ChainId { table: table_of(object), name: string(&object[name]).to_owned() }
}

/// Whether packets to this host begin here. Chains of other hooks see those that leave or are forwarded.
fn is_entry(chain: &Value) -> bool {
    let for_ip = matches!(string(&chain["family"]), "ip" | "ip6" | "inet" | "netdev");
    for_ip && matches!(string(&chain["hook"]), "ingress" | "prerouting" | "input")
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What a match or a map looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Port,
    Protocol,
    Destination,
    Interface,
    /// The TCP flags that the number has.
    Flags(u8),
    State,
    Other,
}

/// Reads rules of one table.
struct Reader<'a> {
    table: &'a str,
    sets: &'a Sets<'a>,
}

impl Reader<'_> {
    /// A rule, or several where it decides by a map.
    fn rule(&self, statements: &[Value]) -> Vec<(Conditions, Action)> {
        let mut conditions = Conditions::any();
        let mut action = Action::None;
        for statement in statements {
            let Some((name, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            match name.as_str() {
                "match" => self.narrow(&mut conditions, body),
                "vmap" => return self.verdict_map(&conditions, body),
                "xt" => extension(&mut conditions, &mut action, body),
                "dnat" => self.dnat(&mut conditions, &mut action, body),
                _ => action = verdict(name, body).unwrap_or(action),
            }
        }
        vec![(conditions, action)]
    }

    fn narrow(&self, conditions: &mut Conditions, body: &Value) {
        let (left, right) = (&body["left"], &body["right"]);
        if let Some(parts) = left["concat"].as_array() {
            self.narrow_concatenation(conditions, parts, right, string(&body["op"]));
            return;
        }
        let subject = subject(left, conditions);
        self.narrow_subject(conditions, subject, string(&body["op"]), right);
    }

    fn narrow_subject(&self, conditions: &mut Conditions, subject: Subject, op: &str, right: &Value) {
        let negated = op == "!=";
        match subject {
            Subject::Port => match self.ports(op, right) {
                Some(ports) => conditions.ports = conditions.ports.intersection(&ports),
                None => conditions.vague = true,
            },
            Subject::Protocol => {
                let tcp = self.members(right).iter().any(|it| string(it) == "tcp" || it.as_u64() == Some(6));
                conditions.tcp &= tcp != negated;
            }
            Subject::Destination if !negated => {
                conditions.destination = prefix(right).or(conditions.destination);
            }
            Subject::Interface if !negated && right.is_string() => {
                conditions.interface = Some(string(right).to_owned());
            }
            Subject::Flags(mask) => {
                // A bare list is flags combined; a set is alternatives.
                let wanted = match right {
                    Value::Array(_) => vec![flags(right)],
                    _ => self.members(right).into_iter().map(flags).collect(),
                };
                conditions.test_flags(|packet| flags_fit(packet & mask, op, &wanted));
            }
            Subject::State => {
                let states = self.members(right);
                let is = |state: &str| states.iter().any(|it| string(it) == state) != negated;
                conditions.new &= is("new");
                conditions.invalid &= is("invalid");
            }
            _ => {}
        }
    }

    /// `ip daddr . tcp dport { 192.0.2.1 . 80, … }`: the ports are those of any element.
    fn narrow_concatenation(&self, conditions: &mut Conditions, parts: &[Value], right: &Value, op: &str) {
        let members = self.members(right);
        for (index, part) in parts.iter().enumerate() {
            let subject = subject(part, conditions);
            if op == "!=" || !matches!(subject, Subject::Port | Subject::Protocol) {
                continue;
            }
            let column = members.iter().map(|member| member["concat"][index].clone()).collect();
            self.narrow_subject(conditions, subject, "==", &Value::Array(column));
        }
    }

    /// One rule for each element of the map.
    fn verdict_map(&self, conditions: &Conditions, body: &Value) -> Vec<(Conditions, Action)> {
        let key = &body["key"];
        let pairs = self.members(&body["data"]);
        pairs
            .iter()
            .map(|pair| {
                let mut conditions = conditions.clone();
                self.narrow_to_key(&mut conditions, key, unwrap_element(&pair[0]));
                let target = pair[1].as_object().and_then(|object| object.iter().next());
                let action = target.and_then(|(name, body)| verdict(name, body));
                (conditions, action.unwrap_or(Action::None))
            })
            .collect()
    }

    /// DNAT to an address, or to one that a map gives for the port.
    fn dnat(&self, conditions: &mut Conditions, action: &mut Action, body: &Value) {
        let map = &body["addr"]["map"];
        if map.is_object() {
            let keys =
                self.members(&map["data"]).into_iter().map(|pair| unwrap_element(&pair[0]).clone()).collect();
            self.narrow_to_key(conditions, &map["key"], &Value::Array(keys));
        }
        *action = Action::Redirect { to: destination(body) };
    }

    fn narrow_to_key(&self, conditions: &mut Conditions, key: &Value, right: &Value) {
        match key["concat"].as_array() {
            Some(parts) => self.narrow_concatenation(conditions, parts, right, "=="),
            None => {
                let subject = subject(key, conditions);
                self.narrow_subject(conditions, subject, "==", right);
            }
        }
    }

    fn ports(&self, op: &str, right: &Value) -> Option<Ports> {
        let members = self.members(right);
        let ports: Ports = members.iter().map(|member| port_range(member)).collect::<Option<_>>()?;
        let only = || right.as_u64().and_then(|port| u16::try_from(port).ok());
        Some(match op {
            "!=" => ports.complement(),
            "<" => Ports::from_iter([0..=only()?.checked_sub(1)?]),
            "<=" => Ports::from_iter([0..=only()?]),
            ">" => Ports::from_iter([only()?.checked_add(1)?..=u16::MAX]),
            ">=" => Ports::from_iter([only()?..=u16::MAX]),
            _ => ports,
        })
    }

    /// The elements of a set, be it named or written out; a single value is a set of one.
    fn members<'v>(&'v self, value: &'v Value) -> Vec<&'v Value> {
        let value = match value.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => match self.sets.get(&(self.table.to_owned(), name)) {
                Some(elements) => elements,
                None => return Vec::new(),
            },
            None => value,
        };
        match value {
            Value::Null => Vec::new(),
            Value::Array(elements) => elements.iter().map(unwrap_element).collect(),
            Value::Object(object) if object.contains_key("set") => self.members(&object["set"]),
            single => vec![unwrap_element(single)],
        }
    }
}

/// Elements with a timeout, counter or comment are wrapped.
fn unwrap_element(element: &Value) -> &Value {
    element["elem"].get("val").unwrap_or(element)
}

/// What an expression looks at. That a field of TCP or of another protocol is looked at is a condition in itself.
fn subject(left: &Value, conditions: &mut Conditions) -> Subject {
    if let Some(parts) = left["&"].as_array() {
        let mask = parts.get(1).map_or(0, flags);
        return match parts.first().map(|part| subject(part, conditions)) {
            Some(Subject::Flags(_)) => Subject::Flags(mask),
            _ => Subject::Other,
        };
    }
    let payload = &left["payload"];
    let protocol = string(&payload["protocol"]);
    if matches!(protocol, "udp" | "udplite" | "sctp" | "dccp" | "icmp" | "icmpv6" | "esp" | "ah") {
        conditions.tcp = false;
    }
    match (protocol, string(&payload["field"])) {
        ("tcp" | "th", "dport") => Subject::Port,
        ("tcp", "flags") => Subject::Flags(u8::MAX),
        ("ip", "protocol") | ("ip6", "nexthdr") => Subject::Protocol,
        ("ip" | "ip6", "daddr") => Subject::Destination,
        _ => match (string(&left["meta"]["key"]), string(&left["ct"]["key"])) {
            ("l4proto", _) => Subject::Protocol,
            ("iif" | "iifname", _) => Subject::Interface,
            (_, "state") => Subject::State,
            _ => Subject::Other,
        },
    }
}

/// Whether a packet's flags pass a comparison. `in` asks whether any of the flags is set, `!` whether none is.
fn flags_fit(packet: u8, op: &str, wanted: &[u8]) -> bool {
    let any = wanted.iter().fold(0, |all, flags| all | flags);
    match op {
        "in" => packet & any != 0,
        "!" => packet & any == 0,
        "!=" => !wanted.contains(&packet),
        _ => wanted.contains(&packet),
    }
}

/// The TCP flags that a value names: one, a list, or some combined.
fn flags(value: &Value) -> u8 {
    match value {
        Value::Array(values) => values.iter().fold(0, |all, value| all | flags(value)),
        Value::Object(object) => object.get("|").map_or(0, flags),
        Value::Number(number) => number.as_u64().unwrap_or_default() as u8,
        value => match string(value) {
            "fin" => 0x01,
            "syn" => 0x02,
            "rst" => 0x04,
            "psh" => 0x08,
            "ack" => 0x10,
            "urg" => 0x20,
            "ecn" => 0x40,
            "cwr" => 0x80,
            _ => 0,
        },
    }
}

fn port_range(value: &Value) -> Option<std::ops::RangeInclusive<u16>> {
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    match value["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => Some(port(first)?..=port(last)?),
        _ => port(value).map(|port| port..=port),
    }
}

fn prefix(value: &Value) -> Option<(std::net::IpAddr, u8)> {
    let prefix = &value["prefix"];
    match (prefix["addr"].as_str(), prefix["len"].as_u64()) {
        (Some(address), Some(length)) => Some((address.parse().ok()?, u8::try_from(length).ok()?)),
        _ => parse_prefix(value.as_str()?),
    }
}

fn verdict(name: &str, body: &Value) -> Option<Action> {
    Some(match name {
        "accept" => Action::Accept,
        "drop" | "reject" => Action::Drop,
        "redirect" | "tproxy" => Action::Redirect { to: destination(body) },
        "synproxy" => Action::Synproxy,
        "jump" | "goto" => Action::Call(string(&body["target"]).to_owned()),
        _ => return None,
    })
}

fn destination(body: &Value) -> String {
    match (body["addr"].as_str(), body["port"].as_u64()) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_owned(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "elsewhere".to_owned(),
    }
}

/// What iptables put into nftables and nft has no word for: only its name is printed.
fn extension(conditions: &mut Conditions, action: &mut Action, body: &Value) {
    match (string(&body["type"]), string(&body["name"])) {
        ("match", "tcp" | "multiport" | "set" | "bpf" | "u32") => conditions.vague = true,
        ("target", "DNAT" | "REDIRECT" | "TPROXY" | "NETMAP") => {
            *action = Action::Redirect { to: "elsewhere".to_owned() };
        }
        ("target", "REJECT") => *action = Action::Drop,
        ("target", "SYNPROXY") => *action = Action::Synproxy,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{in_namespace, shell};
    use super::super::{Finding, Firewall, Problem};
    use super::*;

    /// What is found with these nftables rules in place.
    fn found(ruleset: &str) -> Vec<Finding> {
        let firewall = in_namespace(|| {
            shell(&format!("nft -f - <<'END'\n{ruleset}\nEND"));
            Firewall::read()
        });
        assert_eq!(firewall.unchecked, [""; 0]);
        firewall.findings
    }

    fn problems(ruleset: &str) -> Vec<(Problem, String)> {
        found(ruleset).into_iter().map(|finding| (finding.problem, finding.ports.to_string())).collect()
    }

    /// What is found with these rules in an input chain.
    fn in_input(rules: &str) -> Vec<(Problem, String)> {
        problems(&format!(
            "table inet filter {{
                set web {{ type inet_service; flags interval; elements = {{ 80, 443, 8000-8010 }}; }}
                set met {{ type ipv4_addr; size 9; flags dynamic; }}
                map ports {{ type inet_service : verdict; elements = {{ 25 : jump mail, 26 : accept }}; }}
                chain mail {{ tcp flags syn limit rate over 5/second drop; }}
                chain syns {{ limit rate over 100/second burst 50 packets drop; return; }}
                chain input {{ type filter hook input priority filter; policy drop; {rules}; }}
                chain output {{ type filter hook output priority filter; tcp flags syn drop; }}
            }}"
        ))
    }

    fn redirected(to: &str, ports: &str) -> (Problem, String) {
        (Problem::Redirected { to: to.to_owned() }, ports.to_owned())
    }

    #[test]
    fn a_namespace_without_rules_has_nothing_in_the_way() {
        assert_eq!(found(""), []);
    }

    #[test]
    fn an_ordinary_firewall_has_nothing_in_the_way() {
        let rules = "ct state established,related accept; iif lo accept; tcp dport { 22, 80, 443 } accept
            ct state new tcp dport 8080 accept; ip saddr 192.0.2.0/24 drop; udp dport 53 drop; tcp dport 23 reject
            meta l4proto udp drop; tcp flags & (fin|syn) == fin|syn drop; counter drop";
        assert_eq!(in_input(rules), []);
    }

    #[test]
    fn rules_that_drop_or_limit_syns_alone_are_found() {
        for rule in [
            "tcp flags syn drop",
            "tcp flags == syn drop",
            "tcp flags & (fin|syn|rst|ack) == syn limit rate over 9/second drop",
            "tcp flags & (syn|ack) == syn ct state new update @met { ip saddr limit rate over 9/second } drop",
            "tcp flags syn reject with tcp reset",
            "tcp flags syn jump syns",
            "ct state new tcp flags ! ack drop",
            "tcp flags { syn, fin } drop",
        ] {
            assert_eq!(in_input(rule), [(Problem::SynsDropped, "all ports".to_owned())], "{rule}");
        }
        assert_eq!(in_input("tcp dport vmap @ports"), [(Problem::SynsDropped, "port 25".to_owned())]);
    }

    #[test]
    fn rules_that_let_in_syns_alone_are_found() {
        let seen = in_input("tcp flags syn tcp dport @web ct state new accept");
        assert_eq!(seen, [(Problem::SynsAccepted, "ports 80, 443, 8000-8010".to_owned())]);
        let seen = in_input(
            "tcp dport { 22, 2222 } tcp flags & (fin|syn|rst|ack) == syn limit rate 3/minute accept",
        );
        assert_eq!(seen, [(Problem::SynsAccepted, "ports 22, 2222".to_owned())]);
    }

    #[test]
    fn rules_that_want_connections_to_begin_with_a_syn_are_found() {
        for rule in [
            "tcp flags & (fin|syn|rst|ack) != syn ct state new drop",
            "tcp flags != syn ct state new counter drop",
            "tcp flags ! syn ct state new drop",
            "ct state new tcp flags ack drop",
        ] {
            assert_eq!(in_input(rule), [(Problem::OthersDropped, "all ports".to_owned())], "{rule}");
        }
    }

    #[test]
    fn rules_that_drop_what_conntrack_cannot_place_are_found() {
        for rule in ["ct state invalid drop", "ct state vmap { established : accept, invalid : drop }"] {
            assert_eq!(in_input(rule), [(Problem::InvalidDropped, "all ports".to_owned())], "{rule}");
        }
        assert_eq!(in_input("ct state != established,related drop"), []);
    }

    #[test]
    fn synproxy_is_found() {
        let seen = in_input(
            "tcp dport 8443 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm",
        );
        assert_eq!(seen, [(Problem::Synproxy, "port 8443".to_owned())]);
    }

    #[test]
    fn redirects_are_found_with_their_ports() {
        let seen = problems(
            "table ip nat {
                map forwarded { type inet_service : ipv4_addr . inet_service
                                elements = { 81 : 10.0.0.2 . 80, 82 : 10.0.0.3 . 80 }; }
                map verdicts { type ipv4_addr . inet_proto . inet_service : verdict
                               elements = { 192.0.2.1 . tcp . 300 : goto other, 192.0.2.1 . udp . 301 : goto other }; }
                chain pre { type nat hook prerouting priority dstnat
                    tcp dport 8080 dnat to 172.17.0.2:80
                    tcp dport { 90, 92-95 } redirect to :3128
                    dnat ip to tcp dport map @forwarded
                    udp dport 53 dnat to 10.0.0.1
                    meta l4proto tcp redirect
                    ip protocol tcp th dport 777 dnat to 10.1.1.1
                    tcp dport >= 60000 redirect
                    tcp dport < 10 redirect
                    fib daddr type local tcp dport 100 jump other
                    tcp dport 200 goto other
                    ip daddr . meta l4proto . th dport vmap @verdicts
                }
                chain other { dnat to 10.9.9.9; tcp dport 5 redirect; }
                chain out { type nat hook output priority -100; tcp dport 5555 dnat to 10.0.0.1; }
            }
            table inet t { chain pre { type filter hook prerouting priority mangle
                    tcp dport 99 tproxy ip to 127.0.0.1:1099; }; }",
        );
        let expected = [
            redirected("127.0.0.1:1099", "port 99"),
            redirected("172.17.0.2:80", "port 8080"),
            redirected("port 3128", "ports 90, 92-95"),
            redirected("elsewhere", "ports 81-82"),
            redirected("elsewhere", "all ports"),
            redirected("10.1.1.1", "port 777"),
            redirected("elsewhere", "ports 60000-65535"),
            redirected("elsewhere", "ports 0-9"),
            redirected("10.9.9.9", "port 100"),
            redirected("10.9.9.9", "port 200"),
            redirected("10.9.9.9", "port 300"),
        ];
        for one in &expected {
            assert!(seen.contains(one), "{one:?} in {seen:?}");
        }
        assert_eq!(seen.len(), expected.len(), "{seen:?}");
    }

    #[test]
    fn a_redirect_is_for_its_address_and_interface() {
        let firewall = Firewall {
            findings: found(
                r#"table ip nat { chain pre { type nat hook prerouting priority dstnat
                    ip daddr 192.0.2.0/24 tcp dport 443 dnat to 10.0.0.9
                    iifname "eth*" tcp dport 80 redirect to :8080; }; }
                table ip6 nat { chain pre { type nat hook prerouting priority dstnat
                    ip6 daddr 2001:db8::1 tcp dport 443 dnat to [2001:db8::9]:80; }; }"#,
            ),
            unchecked: Vec::new(),
        };
        let rule = |interface: &str, address: &str, port| {
            let found = firewall.obstacle(&[interface.to_owned()], address.parse().unwrap(), port);
            found.map(|finding| finding.rule.as_str())
        };
        assert_eq!(rule("eth0", "192.0.2.9", 443), Some("nft ip nat pre, handle 2"));
        assert_eq!(rule("eth0", "0.0.0.0", 443), Some("nft ip nat pre, handle 2"));
        assert_eq!(rule("eth0", "192.0.3.9", 443), None);
        assert_eq!(rule("eth0", "192.0.2.9", 444), None);
        assert_eq!(rule("eth0", "2001:db8::1", 443), Some("nft ip6 nat pre, handle 2"));
        assert_eq!(rule("eth0", "2001:db8::2", 443), None);
        assert_eq!(rule("eth0", "192.0.2.9", 80), Some("nft ip nat pre, handle 3"));
        assert_eq!(rule("wan0", "192.0.2.9", 80), None);
    }

    /// Printed by nft 1.0.6 for rules of iptables 1.8.9, whose extensions it does not know.
    const EXTENSIONS: &str = r#"{"nftables": [
        {"chain": {"family": "ip", "table": "nat", "name": "DOCKER", "handle": 1}},
        {"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", "handle": 2, "type": "nat",
            "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "nat", "chain": "DOCKER", "handle": 9, "expr": [
            {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "docker0"}},
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8080}},
            {"counter": {"packets": 0, "bytes": 0}}, {"xt": {"type": "target", "name": "DNAT"}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 3, "expr": [
            {"xt": {"type": "match", "name": "addrtype"}}, {"counter": {"packets": 0, "bytes": 0}},
            {"jump": {"target": "DOCKER"}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 11, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
            {"xt": {"type": "match", "name": "multiport"}}, {"counter": {"packets": 0, "bytes": 0}},
            {"xt": {"type": "target", "name": "REDIRECT"}}]}}]}"#;

    #[test]
    fn rules_of_iptables_are_read_as_far_as_nft_prints_them() {
        let mut rules = Ruleset::default();
        parse(EXTENSIONS, &BTreeSet::new(), &mut rules).unwrap();
        let firewall = Firewall { findings: super::super::ruleset::findings(&rules), unchecked: Vec::new() };
        let obstacle = |port| firewall.obstacle(&["eth0".to_owned()], "0.0.0.0".parse().unwrap(), port);
        assert_eq!(obstacle(8080).unwrap().rule, "nft ip nat DOCKER, handle 9");
        // For which ports the second redirect is, nft does not say: that makes no service unprotectable.
        assert_eq!(obstacle(9000), None);
        assert!(firewall.findings[1].vague);
    }

    #[test]
    fn tables_that_iptables_lists_itself_are_left_out() {
        let mut rules = Ruleset::default();
        parse(EXTENSIONS, &["ip nat".to_owned()].into(), &mut rules).unwrap();
        assert!(rules.chains.is_empty());
    }
}
