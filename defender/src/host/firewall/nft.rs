//! Rules as `nft -j list ruleset` prints them (libnftables-json(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;
use serde_json::Value;

use super::ruleset::{
    Base, Chain, ChainId, Condition, Fit, Limit, Nat, NetfilterHook, Rule, RuleAction, Ruleset,
};
use super::{Firewall, PortSet, Tool, list, parse_prefix};

/// Reads nft's listing, except for the tables in `known`.
pub(super) fn read(firewall: &mut Firewall, known: &BTreeSet<String>, deadline: Instant) {
    match list("nft", &["-j", "list", "ruleset"], deadline) {
        Tool::Printed(text) => {
            if let Err(error) = parse(&text, known, &mut firewall.rules) {
                firewall.could_not_run("nft", &format!("its output is not JSON: {error}"));
            }
        }
        Tool::Missing => {
            firewall.unchecked.push("nft is not installed, so nftables' rules are unknown".to_owned());
        }
        Tool::Failed(reason) => firewall.could_not_run("nft", &reason),
    }
}

/// The elements of sets and maps, by table and name.
type Sets<'a> = BTreeMap<(String, &'a str), &'a Value>;

/// Named limits, by table and name.
type Limits<'a> = BTreeMap<(String, &'a str), Limit>;

fn parse(text: &str, known: &BTreeSet<String>, rules: &mut Ruleset) -> serde_json::Result<()> {
    let ruleset: Value = serde_json::from_str(text)?;
    let objects = elements(&ruleset["nftables"]);
    let of = |kind: &'static str| objects.iter().map(move |object| &object[kind]).filter(|it| it.is_object());

    let sets: Sets =
        of("set").chain(of("map")).map(|set| ((table_of(set), string(&set["name"])), &set["elem"])).collect();
    let limits: Limits =
        of("limit").map(|limit| ((table_of(limit), string(&limit["name"])), limit_of(limit))).collect();
    for chain in of("chain").filter(|chain| !known.contains(&table_of(chain))) {
        if string(&chain["type"]) == "nat" {
            let place = format!("nft {} {}", table_of(chain), string(&chain["name"]));
            rules.nat.push(Nat { conditions: versions(chain), place });
        }
        rules.chains.insert(chain_id(chain, "name"), Chain { base: base(chain), rules: Vec::new() });
    }
    for rule in of("rule").filter(|rule| !known.contains(&table_of(rule))) {
        let id = chain_id(rule, "chain");
        let place = format!("nft {} {}, handle {}", id.table, id.name, rule["handle"]);
        let reader = NftReader { table: &id.table, sets: &sets, limits: &limits };
        let chain = rules.chains.entry(id.clone()).or_default();
        chain.rules.extend(reader.rules(&place, elements(&rule["expr"])));
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

/// Whether a chain is a base chain for packets to this host, and its properties. Other hooks see outgoing
/// or forwarded packets.
fn base(chain: &Value) -> Option<Base> {
    let family = string(&chain["family"]);
    let hook = match string(&chain["hook"]) {
        "ingress" => NetfilterHook::Ingress,
        "prerouting" => NetfilterHook::Prerouting,
        "input" => NetfilterHook::Input,
        _ => return None,
    };
    if !matches!(family, "ip" | "ip6" | "inet" | "netdev") {
        return None;
    }
    let mut conditions = versions(chain);
    let devices = match &chain["dev"] {
        Value::Array(names) => names.iter().map(|name| string(name).to_owned()).collect(),
        name => vec![string(name).to_owned()],
    };
    if hook == NetfilterHook::Ingress {
        conditions.push(Condition::Interface { names: devices, negated: false });
    }
    let policy = string(&chain["policy"]);
    Some(Base {
        hook,
        priority: chain["prio"].as_i64().unwrap_or_default(),
        nat: string(&chain["type"]) == "nat",
        conditions,
        drops: policy == "drop",
        place: format!("nft {} {}, policy {policy}", table_of(chain), string(&chain["name"])),
    })
}

/// The IP versions a chain applies to.
fn versions(chain: &Value) -> Vec<Condition> {
    match string(&chain["family"]) {
        family @ ("ip" | "ip6") => vec![Condition::Version { v6: family == "ip6" }],
        _ => Vec::new(),
    }
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What a match or a map examines.
#[derive(Clone, Debug, PartialEq, Eq)]
enum MatchSubject {
    Port,
    Protocol,
    Version,
    Destination,
    Interface,
    /// The TCP flags with these bits.
    Flags(u8),
    CtState,
    /// A TCP option that only SYNs carry.
    SynOption,
    /// Another property that differs between packets.
    OfPacket,
    /// Another property shared by all packets of a connection.
    OfConnection,
}

/// A partly read rule.
#[derive(Clone, Default)]
struct NftRule {
    conditions: Vec<Condition>,
    limit: Option<Limit>,
    action: Option<RuleAction>,
}

impl NftRule {
    fn rule(self, place: &str) -> Rule {
        let Self { conditions, limit, action } = self;
        Rule { place: place.to_owned(), conditions, limit, action: action.unwrap_or(RuleAction::None) }
    }
}

/// Reads rules of one table.
struct NftReader<'a> {
    table: &'a str,
    sets: &'a Sets<'a>,
    limits: &'a Limits<'a>,
}

impl NftReader<'_> {
    /// One rule, or several where a map decides.
    fn rules(&self, place: &str, statements: &[Value]) -> Vec<Rule> {
        let mut reading = NftRule::default();
        for statement in statements {
            let Some((name, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            match name.as_str() {
                "match" => self.narrow(&mut reading.conditions, body),
                "vmap" => return self.verdict_map(place, &reading, body),
                "xt" => extension(&mut reading, body),
                "dnat" => self.dnat(&mut reading, body),
                "limit" => reading.limit = Some(self.limit(body)),
                "ct count" => reading.limit = Some(Limit { connections: true, ..limit_of(body) }),
                "set" | "meter" => reading.limit = self.limit_of_elements(&body["stmt"]).or(reading.limit),
                _ => reading.action = verdict(name, body).or(reading.action),
            }
        }
        vec![reading.rule(place)]
    }

    /// A limit, or the name of one.
    fn limit(&self, body: &Value) -> Limit {
        let named = body.as_str().and_then(|name| self.limits.get(&(self.table.to_owned(), name)));
        named.copied().unwrap_or_else(|| limit_of(body))
    }

    /// The limit that applies to each element of a set separately.
    fn limit_of_elements(&self, statements: &Value) -> Option<Limit> {
        let limit = |it: &Value| match &it["limit"] {
            Value::Null => it.get("ct count").map(|body| Limit { connections: true, ..limit_of(body) }),
            body => Some(self.limit(body)),
        };
        match statements {
            Value::Array(statements) => statements.iter().find_map(limit),
            statement => limit(statement),
        }
    }

    fn narrow(&self, conditions: &mut Vec<Condition>, body: &Value) {
        let (left, right) = (&body["left"], &body["right"]);
        if let Some(parts) = left["concat"].as_array() {
            self.narrow_concatenation(conditions, parts, right, string(&body["op"]));
            return;
        }
        let subject = subject(left, conditions);
        conditions.extend(self.condition(&subject, string(&body["op"]), right));
    }

    fn condition(&self, subject: &MatchSubject, op: &str, right: &Value) -> Option<Condition> {
        let negated = op == "!=";
        Some(match subject {
            MatchSubject::Port => match self.ports(op, right) {
                Some(ports) => Condition::Port(ports),
                None => Condition::OfConnection,
            },
            MatchSubject::Protocol => {
                let tcp = self.members(right).iter().any(|it| string(it) == "tcp" || it.as_u64() == Some(6));
                (tcp == negated).then_some(Condition::Never)?
            }
            MatchSubject::Version => {
                let v6 = self.members(right).iter().any(|it| matches!(string(it), "ipv6" | "ip6"));
                Condition::Version { v6: v6 != negated }
            }
            MatchSubject::Destination => match self.members(right).into_iter().map(prefix).collect() {
                Some(prefixes) => Condition::Destination { prefixes, negated },
                None => Condition::OfConnection,
            },
            MatchSubject::Interface => {
                let names = self.members(right).into_iter().map(|name| string(name).to_owned()).collect();
                Condition::Interface { names, negated }
            }
            MatchSubject::Flags(mask) => {
                // A bare list combines flags. A set lists alternatives.
                let wanted = match right {
                    Value::Array(_) => vec![flags(right)],
                    _ => self.members(right).into_iter().map(flags).collect(),
                };
                Condition::flags(|packet| flags_fit(packet & mask, op, &wanted))
            }
            MatchSubject::CtState => {
                Condition::states(self.members(right).into_iter().map(string), negated || op == "!")
            }
            MatchSubject::SynOption => {
                let missing = right.as_bool() == Some(negated);
                Condition::OfPacket { syn: Fit::Perhaps, ack: if missing { Fit::Yes } else { Fit::No } }
            }
            MatchSubject::OfPacket => Condition::OfPacket { syn: Fit::Perhaps, ack: Fit::Perhaps },
            MatchSubject::OfConnection => Condition::OfConnection,
        })
    }

    /// `ip daddr . tcp dport { 192.0.2.1 . 80, … }`: each part is narrowed to the values of all elements.
    fn narrow_concatenation(
        &self,
        conditions: &mut Vec<Condition>,
        parts: &[Value],
        right: &Value,
        op: &str,
    ) {
        let members = self.members(right);
        for (index, part) in parts.iter().enumerate() {
            let subject = subject(part, conditions);
            let column = members.iter().map(|member| member["concat"][index].clone()).collect();
            conditions.extend(match op {
                // An inequality of the whole concatenation says nothing about one part.
                "!=" => Some(Condition::OfConnection),
                _ => self.condition(&subject, "==", &Value::Array(column)),
            });
        }
    }

    /// One rule for each element of the map.
    fn verdict_map(&self, place: &str, reading: &NftRule, body: &Value) -> Vec<Rule> {
        let key = &body["key"];
        let pairs = self.members(&body["data"]);
        pairs
            .iter()
            .map(|pair| {
                let mut reading = reading.clone();
                self.narrow_to_key(&mut reading.conditions, key, unwrap_element(&pair[0]));
                let target = pair[1].as_object().and_then(|object| object.iter().next());
                reading.action = target.and_then(|(name, body)| verdict(name, body));
                reading.rule(place)
            })
            .collect()
    }

    /// DNAT to an address, or to the address that a map gives for the port.
    fn dnat(&self, reading: &mut NftRule, body: &Value) {
        let map = &body["addr"]["map"];
        if map.is_object() {
            let keys =
                self.members(&map["data"]).into_iter().map(|pair| unwrap_element(&pair[0]).clone()).collect();
            self.narrow_to_key(&mut reading.conditions, &map["key"], &Value::Array(keys));
        }
        reading.action = Some(RuleAction::Redirect { to: destination(body) });
    }

    fn narrow_to_key(&self, conditions: &mut Vec<Condition>, key: &Value, right: &Value) {
        match key["concat"].as_array() {
            // One element, or a list of elements.
            Some(parts) if right.is_array() => self.narrow_concatenation(conditions, parts, right, "=="),
            Some(parts) => {
                self.narrow_concatenation(conditions, parts, &Value::Array(vec![right.clone()]), "==");
            }
            None => {
                let subject = subject(key, conditions);
                conditions.extend(self.condition(&subject, "==", right));
            }
        }
    }

    fn ports(&self, op: &str, right: &Value) -> Option<PortSet> {
        let members = self.members(right);
        let ports: PortSet = members.iter().map(|member| port_range(member)).collect::<Option<_>>()?;
        let only = || right.as_u64().and_then(|port| u16::try_from(port).ok());
        Some(match op {
            "!=" => ports.complement(),
            "<" => PortSet::from_iter([0..=only()?.checked_sub(1)?]),
            "<=" => PortSet::from_iter([0..=only()?]),
            ">" => PortSet::from_iter([only()?.checked_add(1)?..=u16::MAX]),
            ">=" => PortSet::from_iter([only()?..=u16::MAX]),
            _ => ports,
        })
    }

    /// The elements of a named or literal set. A single value is a set of one.
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

/// Elements with a timeout, counter or comment are wrapped in an object.
fn unwrap_element(element: &Value) -> &Value {
    element["elem"].get("val").unwrap_or(element)
}

/// What an expression examines. Reading a field of IP or of another protocol is a condition in itself.
fn subject(left: &Value, conditions: &mut Vec<Condition>) -> MatchSubject {
    if let Some(parts) = left["&"].as_array() {
        let mask = parts.get(1).map_or(0, flags);
        return match parts.first().map(|part| subject(part, conditions)) {
            Some(MatchSubject::Flags(_)) => MatchSubject::Flags(mask),
            Some(MatchSubject::CtState | MatchSubject::OfPacket) => MatchSubject::OfPacket,
            _ => MatchSubject::OfConnection,
        };
    }
    if let Some(option) = left["tcp option"].as_object() {
        let syns = ["maxseg", "window", "sack-permitted", "sack-perm"];
        let name = option.get("name").map_or("", string);
        return if syns.contains(&name) { MatchSubject::SynOption } else { MatchSubject::OfPacket };
    }
    if left["osf"].is_object() {
        return MatchSubject::SynOption;
    }
    if left["numgen"].is_object() {
        return MatchSubject::OfPacket;
    }
    let payload = &left["payload"];
    let (protocol, field) = (string(&payload["protocol"]), string(&payload["field"]));
    match protocol {
        "udp" | "udplite" | "sctp" | "dccp" | "icmp" | "icmpv6" | "igmp" | "esp" | "ah" | "comp" | "arp" => {
            conditions.push(Condition::Never);
        }
        "ip" | "ip6" => conditions.push(Condition::Version { v6: protocol == "ip6" }),
        _ => {}
    }
    match (protocol, field) {
        ("tcp" | "th", "dport") => MatchSubject::Port,
        ("tcp", "flags") => MatchSubject::Flags(u8::MAX),
        ("tcp" | "th", "sport") => MatchSubject::OfConnection,
        ("ip", "protocol") | ("ip6", "nexthdr") => MatchSubject::Protocol,
        ("ip" | "ip6", "daddr") => MatchSubject::Destination,
        ("ip", "length" | "id" | "checksum") | ("ip6", "length") | ("tcp" | "th", _) => {
            MatchSubject::OfPacket
        }
        _ if payload.get("base").is_some() => MatchSubject::OfPacket,
        _ => match (string(&left["meta"]["key"]), string(&left["ct"]["key"])) {
            ("l4proto", _) => MatchSubject::Protocol,
            ("nfproto" | "protocol", _) => MatchSubject::Version,
            ("iif" | "iifname", _) => MatchSubject::Interface,
            ("length" | "random", _) => MatchSubject::OfPacket,
            (_, "state") => MatchSubject::CtState,
            _ => MatchSubject::OfConnection,
        },
    }
}

/// Whether a packet's flags match a comparison. `in` tests whether any of the flags is set, `!` whether
/// none is.
fn flags_fit(packet: u8, op: &str, wanted: &[u8]) -> bool {
    let any = wanted.iter().fold(0, |all, flags| all | flags);
    match op {
        "in" => packet & any != 0,
        "!" => packet & any == 0,
        "!=" => !wanted.contains(&packet),
        _ => wanted.contains(&packet),
    }
}

/// The TCP flags in a value: one flag, a list, or a combination.
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

fn prefix(value: &Value) -> Option<IpNet> {
    let prefix = &value["prefix"];
    match (prefix["addr"].as_str(), prefix["len"].as_u64()) {
        (Some(address), Some(length)) => IpNet::new(address.parse().ok()?, length.try_into().ok()?).ok(),
        _ => parse_prefix(value.as_str()?),
    }
}

fn limit_of(body: &Value) -> Limit {
    // nft writes either `true` or 1.
    let beyond = body["inv"].as_bool().unwrap_or(body["inv"].as_u64() == Some(1));
    Limit::rate(beyond)
}

fn verdict(name: &str, body: &Value) -> Option<RuleAction> {
    let chain = || string(&body["target"]).to_owned();
    Some(match name {
        "accept" => RuleAction::Accept,
        "drop" | "reject" => RuleAction::Drop,
        "return" => RuleAction::Return,
        "notrack" => RuleAction::Notrack,
        "redirect" | "tproxy" => RuleAction::Redirect { to: destination(body) },
        "synproxy" => RuleAction::Synproxy,
        "jump" => RuleAction::Call { chain: chain(), goto: false },
        "goto" => RuleAction::Call { chain: chain(), goto: true },
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

/// An iptables extension in nftables that nft cannot express: nft prints only its name.
fn extension(reading: &mut NftRule, body: &Value) {
    match (string(&body["type"]), string(&body["name"])) {
        (
            "match",
            "tcp" | "tcpmss" | "conntrack" | "state" | "length" | "u32" | "string" | "bpf" | "statistic",
        ) => {
            reading.conditions.push(Condition::OfPacket { syn: Fit::Perhaps, ack: Fit::Perhaps });
        }
        ("match", "comment") => {}
        ("match", "limit") => reading.limit = Some(Limit::rate(false)),
        ("match", _) => reading.conditions.push(Condition::OfConnection),
        ("target", "DNAT" | "REDIRECT" | "TPROXY" | "NETMAP") => {
            reading.action = Some(RuleAction::Redirect { to: "elsewhere".to_owned() });
        }
        ("target", "REJECT") => reading.action = Some(RuleAction::Drop),
        ("target", "SYNPROXY") => reading.action = Some(RuleAction::Synproxy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{in_namespace, shell};
    use std::net::IpAddr;

    use super::super::{Destination, Judgement, Tracking};
    use super::*;
    use crate::model::finding::{Effect, Finding};

    const LOOSE: Tracking = Tracking { loose: true, one_new: false };

    fn firewall(ruleset: &str) -> Firewall {
        let firewall = in_namespace(|| {
            shell(&format!("nft -f - <<'END'\n{ruleset}\nEND"));
            Firewall::read(std::time::Duration::from_secs(60))
        });
        assert_eq!(firewall.unchecked, [""; 0]);
        firewall
    }

    fn service(address: &str, port: u16) -> Destination {
        let address: IpAddr = address.parse().unwrap();
        Destination { address, port, v4: address.is_ipv4(), v6: address.is_ipv6() }
    }

    /// What blocks connections through `eth0` to this port of any address.
    fn on_port(firewall: &Firewall, port: u16) -> Vec<Effect> {
        let judgement = firewall.judge(&["eth0".to_owned()], &service("0.0.0.0", port), LOOSE);
        let Judgement { obstacle, warnings } = judgement;
        obstacle.into_iter().chain(warnings).map(|finding| finding.effect).collect()
    }

    /// A table with these rules in an input chain that accepts port 80 and established connections and
    /// drops the rest.
    fn input(rules: &str) -> String {
        format!(
            "table inet filter {{
                set web {{ type inet_service; flags interval; elements = {{ 80, 443, 8000-8010 }}; }}
                set met {{ type ipv4_addr; size 9; flags dynamic; }}
                map ports {{ type inet_service : verdict; elements = {{ 80 : jump mail, 26 : accept }}; }}
                chain mail {{ tcp flags syn limit rate over 5/second drop; }}
                chain syns {{ limit rate over 100/second burst 50 packets drop; return; }}
                chain knows {{ return; drop; }}
                chain out {{ tcp flags syn return; ct state new drop; }}
                chain input {{ type filter hook input priority filter; policy drop;
                               ct state established,related accept; iif lo accept
                               {rules}
                               tcp dport 80 accept; }}
                chain output {{ type filter hook output priority filter; tcp flags syn drop; }}
            }}"
        )
    }

    /// What blocks connections to port 80 behind these rules.
    fn in_input(rules: &str) -> Vec<Effect> {
        on_port(&firewall(&input(rules)), 80)
    }

    fn redirected(to: &str) -> Vec<Effect> {
        vec![Effect::Redirected { to: to.to_owned() }]
    }

    #[test]
    fn a_namespace_without_rules_has_nothing_in_the_way() {
        assert_eq!(on_port(&firewall(""), 80), []);
    }

    #[test]
    fn an_ordinary_firewall_has_nothing_in_the_way() {
        for rules in [
            "",
            "ct state new tcp dport @web accept; drop",
            "ct state new tcp flags syn tcp dport 22 accept",
            "ip saddr 192.0.2.0/24 drop; tcp dport 23 reject; meta l4proto udp drop; udp dport 53 drop",
            "tcp flags & (fin|syn) == fin|syn drop; tcp flags & (syn|rst) == syn|rst drop",
            "tcp flags & (fin|syn|rst|psh|ack|urg) == 0x0 drop; tcp flags == fin|psh|urg drop",
            "tcp flags & (fin|ack) == fin drop; tcp flags & (psh|ack) == psh drop",
            "ct state invalid drop; ct state vmap { established : accept, related : accept, invalid : drop }",
            "ip frag-off & 0x1fff != 0 drop; fib daddr type { broadcast, anycast } drop",
            "tcp dport 80 accept; tcp flags != syn ct state new drop",
            "jump knows; ct state new limit rate 3/minute log prefix \"new\"",
            "tcp flags syn tcp dport 80 log; tcp flags syn jump knows",
            "limit rate 1000/second tcp dport 80 accept",
            "tcp flags syn tcp dport 80 accept",
            "meta nfproto ipv6 tcp flags != syn drop; iifname eth1 tcp flags != syn drop",
            "iifname != \"eth*\" drop; iifname { lo, docker0 } tcp flags syn drop",
        ] {
            assert_eq!(in_input(rules), [], "{rules}");
        }
    }

    #[test]
    fn rules_that_limit_only_syns_are_reported() {
        for rule in [
            "tcp flags & (fin|syn|rst|ack) == syn limit rate over 9/second drop",
            "tcp flags & (syn|ack) == syn ct state new update @met { ip saddr limit rate over 9/second } drop",
            "tcp flags syn jump syns",
            "tcp flags syn limit rate 9/second accept; tcp flags syn drop",
            "tcp flags syn ct count over 20 reject with tcp reset",
            "tcp dport vmap @ports",
            "tcp option maxseg size 1-500 drop",
            "tcp flags syn tcp window 1024 drop",
        ] {
            assert_eq!(in_input(rule), [Effect::SynsLimited], "{rule}");
        }
    }

    #[test]
    fn rules_that_keep_clients_out_by_their_syns_alone_are_found() {
        for rule in [
            "tcp flags syn ip saddr 198.51.100.0/24 drop",
            "ip saddr != 198.51.100.0/24 tcp flags & (syn|ack) == syn reject with tcp reset",
            "tcp flags syn ip saddr 10.0.0.0/8 accept; tcp flags syn drop",
            "tcp flags syn meta mark 7 drop",
            "ct state new tcp flags ! ack ip saddr @met drop",
        ] {
            assert_eq!(in_input(rule), [Effect::OnlySynsDropped], "{rule}");
        }
    }

    #[test]
    fn rules_that_let_in_syns_alone_are_found() {
        for rules in [
            "tcp flags syn tcp dport @web ct state new accept; drop",
            "tcp dport { 80, 2222 } tcp flags & (fin|syn|rst|ack) == syn accept; ct state new drop",
            "tcp flags syn limit rate 9/second accept; tcp dport 80 drop",
            "tcp flags syn ip saddr 10.0.0.0/8 accept; drop",
            "jump out",
        ] {
            let found = in_input(rules);
            assert!(matches!(found[..], [Effect::OnlySynsAccepted { .. }, ..]), "{rules}: {found:?}");
        }
    }

    #[test]
    fn rules_that_want_connections_to_begin_with_a_syn_are_found() {
        for rule in [
            "tcp flags & (fin|syn|rst|ack) != syn ct state new drop",
            "tcp flags != syn ct state new counter drop",
            "tcp flags ! syn ct state new drop",
            "ct state new tcp flags ack drop",
            "ct state new tcp flags != syn limit rate over 5/second drop",
            "ct state new tcp flags != syn ip saddr 198.51.100.0/24 drop",
            "ct state new tcp option maxseg missing drop",
            "tcp flags != syn jump knows; ct state new tcp flags != syn reject",
        ] {
            assert_eq!(in_input(rule), [Effect::SynRequired], "{rule}");
        }
    }

    #[test]
    fn a_goto_does_not_come_back() {
        // The policy, drop, applies.
        let expected =
            |found: &[Effect]| matches!(found, [Effect::SynRequired | Effect::OnlySynsAccepted { .. }]);
        let found = in_input("tcp flags != syn goto knows");
        assert!(expected(&found), "{found:?}");
        assert_eq!(in_input("tcp flags != syn jump knows"), []);
    }

    #[test]
    fn a_port_that_is_closed_is_found() {
        assert_eq!(on_port(&firewall(&input("")), 81), [Effect::Closed]);
        assert_eq!(in_input("tcp dport 80 drop"), [Effect::Closed]);
        assert_eq!(in_input("ct state new ip saddr 10.0.0.0/8 accept; drop"), []);
        // One of two interfaces leaves it open.
        let both = ["eth0", "eth1"].map(str::to_owned);
        let judgement = firewall(&input("iifname eth1 drop")).judge(&both, &service("0.0.0.0", 80), LOOSE);
        assert_eq!(judgement.obstacle, None);
        assert_eq!(judgement.warnings[0].effect, Effect::Closed);
    }

    #[test]
    fn limits_of_new_connections_are_reported_where_each_packet_counts_as_new() {
        for rule in [
            "ct state new limit rate over 3/minute drop",
            "ct state new update @met { ip saddr limit rate over 9/second } drop",
            "ct state new tcp dport 80 limit rate 10/second accept; tcp dport 80 drop",
        ] {
            assert_eq!(in_input(rule), [Effect::NewLimited], "{rule}");
            let one_new = Tracking { one_new: true, ..LOOSE };
            let judgement = firewall(&input(rule)).judge(&[], &service("0.0.0.0", 80), one_new);
            assert_eq!(judgement, Judgement::default(), "{rule}");
        }
    }

    #[test]
    fn strict_conntrack_is_in_the_way_where_rules_go_by_it() {
        let strict = Tracking { loose: false, one_new: false };
        for (rules, expected) in [
            ("ct state invalid drop", Some(Effect::InvalidDropped)),
            ("ct state new tcp dport 80 accept; drop", Some(Effect::InvalidDropped)),
            ("tcp dport 80 accept; ct state invalid drop", None),
            ("", None),
            ("tcp flags != syn drop", Some(Effect::SynRequired)),
        ] {
            let judgement = firewall(&input(rules)).judge(&[], &service("0.0.0.0", 80), strict);
            assert_eq!(judgement.obstacle.map(|finding| finding.effect), expected, "{rules}");
        }
    }

    #[test]
    fn before_conntrack_nothing_has_a_state() {
        let chain = |priority: &str, rules: &str| {
            firewall(&format!(
                "table inet t {{ chain c {{ type filter hook prerouting priority {priority}; {rules}; }}; }}"
            ))
        };
        assert_eq!(on_port(&chain("raw", "ct state new tcp flags != syn drop"), 80), []);
        assert_eq!(
            on_port(&chain("mangle", "ct state new tcp flags != syn drop"), 80),
            [Effect::SynRequired]
        );
        assert_eq!(on_port(&chain("raw", "tcp flags syn drop"), 80), [Effect::Closed]);
        let untracked = "table inet t { chain pre { type filter hook prerouting priority raw; tcp dport 80 notrack; };
            chain in { type filter hook input priority 0; ct state untracked accept; tcp flags syn accept; drop; }; }";
        assert_eq!(on_port(&firewall(untracked), 80), []);
        assert!(matches!(on_port(&firewall(untracked), 81)[..], [Effect::OnlySynsAccepted { .. }]));
    }

    #[test]
    fn synproxy_is_found() {
        let seen = in_input(
            "tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm",
        );
        assert_eq!(seen, [Effect::Synproxy]);
    }

    #[test]
    fn redirects_are_found_for_their_ports() {
        let seen = firewall(
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
        for (port, to) in [
            (99, "127.0.0.1:1099"),
            (8080, "172.17.0.2:80"),
            (90, "port 3128"),
            (91, "nowhere"),
            (92, "port 3128"),
            (95, "port 3128"),
            (81, "elsewhere"),
            (777, "10.1.1.1"),
            (60_000, "elsewhere"),
            (9, "elsewhere"),
            (100, "10.9.9.9"),
            (200, "10.9.9.9"),
            (300, "10.9.9.9"),
            (301, "nowhere"),
            (5555, "nowhere"),
        ] {
            // Services behind NAT are never challenged.
            let expected = if to == "nowhere" { vec![Effect::Nat] } else { redirected(to) };
            assert_eq!(on_port(&seen, port)[..1], expected, "{port}");
        }
        let all = firewall(
            "table ip t { chain c { type nat hook prerouting priority 0; meta l4proto tcp redirect; }; }",
        );
        assert_eq!(on_port(&all, 80)[..1], redirected("elsewhere"));
    }

    #[test]
    fn nat_is_in_the_way_of_its_ip_version() {
        for (rules, v4, v6) in [
            (
                "table ip nat { chain c { type nat hook postrouting priority srcnat; masquerade; }; }",
                true,
                false,
            ),
            (
                "table ip6 nat { chain c { type nat hook output priority 0; udp dport 5 redirect; }; }",
                false,
                true,
            ),
            ("table inet nat { chain c { type nat hook prerouting priority 0; return; }; }", true, true),
            ("table inet nat { chain c { type nat hook prerouting priority 0; }; }", false, false),
        ] {
            let firewall = firewall(rules);
            let obstacle = |address| firewall.judge(&[], &service(address, 80), LOOSE).obstacle;
            let is_nat = |address| obstacle(address).is_some_and(|finding| finding.effect == Effect::Nat);
            assert_eq!((is_nat("0.0.0.0"), is_nat("::")), (v4, v6), "{rules}");
        }
    }

    #[test]
    fn a_redirect_is_for_its_address_and_interface() {
        let firewall = firewall(
            r#"table ip nat { chain pre { type nat hook prerouting priority dstnat
                    ip daddr 192.0.2.0/24 tcp dport 443 dnat to 10.0.0.9
                    iifname "eth*" tcp dport 80 redirect to :8080; }; }
                table ip6 nat { chain pre { type nat hook prerouting priority dstnat
                    ip6 daddr 2001:db8::1 tcp dport 443 dnat to [2001:db8::9]:80; }; }"#,
        );
        let rule = |interface: &str, address: &str, port| {
            let judgement = firewall.judge(&[interface.to_owned()], &service(address, port), LOOSE);
            let redirected = |it: &Finding| matches!(it.effect, Effect::Redirected { .. });
            judgement.obstacle.filter(redirected).map(|finding| finding.rule)
        };
        assert_eq!(rule("eth0", "192.0.2.9", 443), Some("nft ip nat pre, handle 2".to_owned()));
        assert_eq!(rule("eth0", "0.0.0.0", 443), Some("nft ip nat pre, handle 2".to_owned()));
        assert_eq!(rule("eth0", "192.0.3.9", 443), None);
        assert_eq!(rule("eth0", "192.0.2.9", 444), None);
        assert_eq!(rule("eth0", "2001:db8::1", 443), Some("nft ip6 nat pre, handle 2".to_owned()));
        assert_eq!(rule("eth0", "2001:db8::2", 443), None);
        assert_eq!(rule("eth0", "192.0.2.9", 80), Some("nft ip nat pre, handle 3".to_owned()));
        assert_eq!(rule("wan0", "192.0.2.9", 80), None);
    }

    /// Output of nft 1.0.6 for rules of iptables 1.8.9 whose extensions it does not know.
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
        let mut firewall = Firewall::default();
        parse(EXTENSIONS, &BTreeSet::new(), &mut firewall.rules).unwrap();
        let obstacle = |port| -> Option<Finding> {
            firewall.judge(&["eth0".to_owned()], &service("0.0.0.0", port), LOOSE).obstacle
        };
        assert_eq!(obstacle(8080).unwrap().rule, "nft ip nat DOCKER, handle 9");
        // nft does not print the ports of the second redirect, so it may apply to any.
        assert_eq!(obstacle(9000).unwrap().rule, "nft ip nat PREROUTING, handle 11");
    }

    #[test]
    fn tables_that_iptables_lists_itself_are_left_out() {
        let mut rules = Ruleset::default();
        parse(EXTENSIONS, &["ip nat".to_owned()].into(), &mut rules).unwrap();
        assert!(rules.chains.is_empty());
    }
}
