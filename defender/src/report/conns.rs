//! `conns`: selects, sorts and prints connections. Pure.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use defender_common::tcp_state::State;
use serde::Serialize;

use crate::{
    model::{listener::Family, number::thousands, prefix::Cidr},
    problem::Problem,
    report::{
        VERSION,
        connection_list::{self, Connection, STATES, TrackedFlow},
        table,
    },
};

/// Which connections to show. An empty field excludes none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In these states.
    pub states: Vec<State>,
    /// To these ports.
    pub ports: Vec<u16>,
    /// From these sources.
    pub sources: Vec<Cidr>,
    /// Over this IP version.
    pub family: Option<Family>,
}

impl Filter {
    /// Whether a connection matches.
    pub fn wants(&self, connection: &Connection) -> bool {
        let remote = connection.remote.ip();
        (self.states.is_empty() || self.states.contains(&connection.state))
            && (self.ports.is_empty() || self.ports.contains(&connection.local.port()))
            && self.family.is_none_or(|family| (family == Family::V4) == remote.is_ipv4())
            && (self.sources.is_empty() || self.sources.iter().any(|source| source.contains(remote)))
    }
}

/// Sort key of a listing. Ties are sorted by port, state and peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first, untracked last.
    Age,
    /// Most packets first, untracked last.
    Packets,
    /// By state, in the order of a connection's life.
    State,
    /// By the client's address.
    Peer,
    /// By this host's port.
    #[default]
    Port,
}

/// Sorts a listing.
pub fn sort(connections: &mut [Connection], order: Order) {
    connections.sort_unstable_by(|a, b| compare(a, b, order).then_with(|| usual(a).cmp(&usual(b))));
}

fn compare(a: &Connection, b: &Connection, order: Order) -> Ordering {
    match order {
        Order::Age => descending(a, b, |tracked| tracked.age),
        Order::Packets => descending(a, b, |tracked| tracked.packets),
        Order::State => rank(a.state).cmp(&rank(b.state)),
        Order::Peer => a.remote.cmp(&b.remote),
        Order::Port => Ordering::Equal,
    }
}

fn descending<T: Ord>(a: &Connection, b: &Connection, key: fn(TrackedFlow) -> T) -> Ordering {
    Reverse(a.tracked.map(key)).cmp(&Reverse(b.tracked.map(key)))
}

fn usual(connection: &Connection) -> impl Ord {
    (connection.local.port(), rank(connection.state), connection.remote, connection.local)
}

fn rank(state: State) -> Option<usize> {
    STATES.iter().position(|known| *known == state)
}

/// The state of a name: the kernel's or ss's, in either case, with `-` or `_`.
pub fn parse_state(text: &str) -> Result<State, Problem> {
    let squeezed = |name: &str| name.replace(['-', '_'], "").to_ascii_uppercase();
    let wanted = match squeezed(text).as_str() {
        "ESTAB" => "ESTABLISHED".to_owned(),
        other => other.to_owned(),
    };
    STATES.into_iter().find(|state| squeezed(state.name()) == wanted).ok_or_else(|| {
        let names = STATES.map(State::name).join(", ");
        Problem::Usage(format!("unknown state `{text}`; expected {names}"))
    })
}

/// The name of a port of this host, if it is to be shown by name.
pub type Names<'a> = dyn Fn(u16) -> Option<String> + 'a;

/// The listing as text: at most `limit` connections, and how many more there are.
pub fn text(connections: &[Connection], limit: Option<usize>, names: &Names<'_>, width: usize) -> String {
    if connections.is_empty() {
        return "  no connections\n".to_owned();
    }
    let shown = cut(connections, limit);
    let rows: Vec<Vec<String>> = shown.iter().map(|connection| row(connection, names)).collect();
    let mut text = table::fit(&["state", "peer", "local", "age", "admitted", "packets"], &rows, width);
    if shown.len() < connections.len() {
        text.push_str(&format!("\n… and {} more\n", thousands((connections.len() - shown.len()) as u64)));
    }
    text
}

fn cut(connections: &[Connection], limit: Option<usize>) -> &[Connection] {
    &connections[..limit.unwrap_or(usize::MAX).min(connections.len())]
}

fn row(connection: &Connection, names: &Names<'_>) -> Vec<String> {
    let tracked =
        |cell: fn(TrackedFlow) -> String| connection.tracked.map_or_else(|| table::NONE.to_owned(), cell);
    vec![
        connection.state.name().to_owned(),
        connection.remote.to_string(),
        named(connection.local, names),
        tracked(|tracked| time(tracked.age)),
        tracked(|tracked| tracked.admitted.name().to_owned()),
        tracked(|tracked| tracked.packets.to_string()),
    ]
}

/// An address with the name of its port, if it has one.
fn named(address: SocketAddr, names: &Names<'_>) -> String {
    match (names(address.port()), address) {
        (Some(name), SocketAddr::V4(address)) => format!("{}:{name}", address.ip()),
        (Some(name), SocketAddr::V6(address)) => format!("[{}]:{name}", address.ip()),
        (None, address) => address.to_string(),
    }
}

/// A duration in one or two units: 3s, 4m12s, 2h, 5d.
pub(super) fn time(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds @ 0..MINUTE => format!("{seconds}s"),
        seconds @ MINUTE..HOUR => format!("{}m{}s", seconds / MINUTE, seconds % MINUTE),
        seconds @ HOUR..DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// Connections in each state, in total and by port, including states with none.
#[derive(Serialize)]
pub struct ConnsSummary {
    /// Version of the shape: 1.
    version: u32,
    /// Connections by the kernel's state, as `ss` counts them: `SYN_RECV`, `ESTABLISHED`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `CLOSING`, `LAST_ACK`, `TIME_WAIT`.
    states: BTreeMap<&'static str, u64>,
    /// The same for each local port.
    ports: BTreeMap<u16, BTreeMap<&'static str, u64>>,
}

impl ConnsSummary {
    /// Counts connections.
    pub fn of(connections: &[Connection]) -> Self {
        let mut by_port: BTreeMap<u16, Vec<&Connection>> = BTreeMap::new();
        for connection in connections {
            by_port.entry(connection.local.port()).or_default().push(connection);
        }
        let count =
            |(port, of_port): (u16, Vec<&Connection>)| (port, connection_list::count(of_port.into_iter()));
        Self {
            version: VERSION,
            states: connection_list::count(connections.iter()),
            ports: by_port.into_iter().map(count).collect(),
        }
    }

    /// As text: a line per port, and one for all.
    pub fn text(&self, names: &Names<'_>, width: usize) -> String {
        if self.ports.is_empty() {
            return "  no connections\n".to_owned();
        }
        let named = |port: u16| names(port).unwrap_or_else(|| port.to_string());
        let ports = self.ports.iter().map(|(port, counts)| (named(*port), counts));
        let rows: Vec<_> = ports.chain([("all".to_owned(), &self.states)]).collect();
        connection_list::table("port", &rows, true, width)
    }

    /// As JSON, on one line or several.
    pub fn json(&self, one_line: bool) -> Result<String> {
        let text = if one_line { serde_json::to_string(self) } else { serde_json::to_string_pretty(self) };
        text.context("cannot write JSON")
    }
}

#[derive(Serialize)]
struct ConnsListing {
    /// Version of the shape: 1.
    version: u32,
    /// How many connections match, regardless of `--limit`.
    total: usize,
    /// The connections.
    connections: Vec<Line>,
}

/// A connection as JSON.
#[derive(Serialize)]
pub(super) struct Line {
    /// The kernel's state.
    state: &'static str,
    /// The client's address.
    peer: IpAddr,
    /// The client's port.
    peer_port: u16,
    /// This host's address.
    local: IpAddr,
    /// This host's port.
    local_port: u16,
    /// Age in seconds. Null, like the next three, if the flow table has no entry for the connection.
    age: Option<u64>,
    /// `handshake`; `cookie`: it proved one; `learnt`: it existed before defender first recorded it.
    admitted: Option<&'static str>,
    /// Packets both ways, since the connection was first seen.
    packets: Option<u32>,
    /// The state derived from the packets. It differs from `state` for a moment, or if a packet bypassed
    /// the datapath.
    wire_state: Option<&'static str>,
}

impl From<&Connection> for Line {
    fn from(connection: &Connection) -> Self {
        let tracked = connection.tracked;
        Self {
            state: connection.state.name(),
            peer: connection.remote.ip(),
            peer_port: connection.remote.port(),
            local: connection.local.ip(),
            local_port: connection.local.port(),
            age: tracked.map(|tracked| tracked.age.as_secs()),
            admitted: tracked.map(|tracked| tracked.admitted.name()),
            packets: tracked.map(|tracked| tracked.packets),
            wire_state: tracked.map(|tracked| tracked.wire_state.name()),
        }
    }
}

/// The listing as JSON, on one line.
pub fn json(connections: &[Connection], limit: Option<usize>) -> Result<String> {
    let listing = ConnsListing {
        version: VERSION,
        total: connections.len(),
        connections: cut(connections, limit).iter().map(Line::from).collect(),
    };
    serde_json::to_string(&listing).context("cannot write JSON")
}

#[cfg(test)]
pub(super) mod tests {
    use defender_common::flow::Admitted;
    use serde_json::{Value, json as value};

    use super::*;

    /// A tracked connection.
    pub(in crate::report) fn connection(state: State, remote: &str, local: &str, age: u64) -> Connection {
        let tracked = TrackedFlow {
            wire_state: state,
            admitted: Admitted::Handshake,
            age: Duration::from_secs(age),
            packets: 2 * age as u32,
        };
        Connection {
            state,
            remote: remote.parse().expect("an address"),
            local: local.parse().expect("an address"),
            service: 1,
            tracked: Some(tracked),
        }
    }

    fn example() -> Vec<Connection> {
        vec![
            connection(State::TimeWait, "192.0.2.7:5", "10.0.0.1:443", 7),
            Connection {
                tracked: None,
                ..connection(State::SynRecv, "[2001:db8::7]:9", "[2001:db8::1]:80", 0)
            },
            connection(State::Established, "198.51.100.1:6", "10.0.0.1:80", 252),
            connection(State::Established, "192.0.2.7:6", "10.0.0.1:80", 3),
        ]
    }

    fn ports(connections: &[Connection]) -> Vec<u16> {
        connections.iter().map(|connection| connection.remote.port()).collect()
    }

    fn sorted(order: Order) -> Vec<(u16, &'static str)> {
        let mut connections = example();
        sort(&mut connections, order);
        connections.iter().map(|connection| (connection.remote.port(), connection.state.name())).collect()
    }

    #[test]
    fn orders() {
        let (wait, half) = ((5, "TIME_WAIT"), (9, "SYN_RECV"));
        let established = (6, "ESTABLISHED");
        assert_eq!(sorted(Order::Port), [half, established, established, wait]);
        assert_eq!(sorted(Order::State), [half, established, established, wait]);
        assert_eq!(sorted(Order::Peer), [wait, established, established, half]);
        assert_eq!(sorted(Order::Age), [established, wait, established, half]);
        assert_eq!(sorted(Order::Packets), [established, wait, established, half]);
    }

    #[test]
    fn all_filters_must_match() {
        let chosen = |filter: Filter| {
            ports(&example().into_iter().filter(|connection| filter.wants(connection)).collect::<Vec<_>>())
        };
        let source = |text: &str| text.parse::<Cidr>().expect("a prefix");
        assert_eq!(chosen(Filter::default()), [5, 9, 6, 6]);
        let states = vec![State::TimeWait, State::SynRecv];
        assert_eq!(chosen(Filter { states: states.clone(), ..Filter::default() }), [5, 9]);
        assert_eq!(chosen(Filter { states, ports: vec![80], ..Filter::default() }), [9]);
        let sources = vec![source("192.0.2.0/24"), source("2001:db8::/32")];
        assert_eq!(chosen(Filter { sources, ..Filter::default() }), [5, 9, 6]);
        assert_eq!(chosen(Filter { family: Some(Family::V6), ..Filter::default() }), [9]);
        assert_eq!(chosen(Filter { family: Some(Family::V4), ..Filter::default() }), [5, 6, 6]);
    }

    #[test]
    fn states_have_many_names() {
        for (text, state) in [
            ("ESTABLISHED", State::Established),
            ("estab", State::Established),
            ("syn-recv", State::SynRecv),
            ("Syn_Recv", State::SynRecv),
            ("FIN_WAIT1", State::FinWait1),
            ("fin-wait-1", State::FinWait1),
            ("fin-wait-2", State::FinWait2),
            ("time-wait", State::TimeWait),
            ("close-wait", State::CloseWait),
            ("last-ack", State::LastAck),
            ("closing", State::Closing),
        ] {
            assert_eq!(parse_state(text).expect(text), state, "{text}");
        }
        for text in ["", "listen", "CLOSE", "established "] {
            let error = parse_state(text).expect_err(text).to_string();
            assert!(STATES.iter().all(|state| error.contains(state.name())), "{error}");
        }
    }

    #[test]
    fn a_listing_is_a_table() {
        let mut connections = example();
        sort(&mut connections, Order::Port);
        assert_eq!(
            text(&connections, None, &|_| None, usize::MAX),
            "  STATE        PEER             LOCAL             AGE    ADMITTED   PACKETS
  SYN_RECV     [2001:db8::7]:9  [2001:db8::1]:80  -      -                -
  ESTABLISHED  192.0.2.7:6      10.0.0.1:80       3s     handshake        6
  ESTABLISHED  198.51.100.1:6   10.0.0.1:80       4m12s  handshake      504
  TIME_WAIT    192.0.2.7:5      10.0.0.1:443      7s     handshake       14
"
        );
        assert_eq!(text(&[], None, &|_| None, usize::MAX), "  no connections\n");
    }

    #[test]
    fn ports_of_this_host_have_names_unless_numbers_are_asked_for() {
        let names = |port| (port == 443).then(|| "https".to_owned());
        let text = text(&example(), None, &names, usize::MAX);
        assert!(text.contains("10.0.0.1:https ") && text.contains("10.0.0.1:80 "), "{text}");
        let v6 = named("[2001:db8::1]:443".parse().expect("an address"), &names);
        assert_eq!(v6, "[2001:db8::1]:https");
        let summary = ConnsSummary::of(&example()).text(&names, usize::MAX);
        assert!(summary.contains("\n  https ") && summary.contains("\n  80 "), "{summary}");
    }

    #[test]
    fn listings_fit_80_columns() {
        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let mut connections = vec![
            connection(State::Established, long, long, 86_399),
            connection(State::SynRecv, "198.51.100.200:65535", "203.0.113.200:65535", 59 * 60 + 59),
        ];
        for state in STATES {
            connections.extend(vec![connection(state, long, "[2001:db8::1]:65535", 7); 10_001]);
        }
        let listing = text(&connections, Some(20), &|_| None, 80);
        let summary = ConnsSummary::of(&connections).text(&|_| None, 80);
        for line in listing.lines().chain(summary.lines()) {
            assert!(line.chars().count() <= 80, "{line}\n{listing}{summary}");
        }
        assert!(listing.contains(long), "{listing}");
        assert!(summary.contains(" 10002 "), "{summary}");
    }

    #[test]
    fn omitted_entries_are_counted() {
        let connections = example();
        assert!(text(&connections, Some(1), &|_| None, usize::MAX).ends_with("\n\n… and 3 more\n"));
        assert!(!text(&connections, Some(4), &|_| None, usize::MAX).contains('…'));
        let listing: Value = serde_json::from_str(&json(&connections, Some(1)).expect("JSON")).expect("JSON");
        assert_eq!(
            (&listing["total"], listing["connections"].as_array().map(Vec::len)),
            (&value!(4), Some(1))
        );
    }

    #[test]
    fn listings_have_the_shape_of_the_contract() {
        let listing: Value = serde_json::from_str(&json(&example()[..2], None).expect("JSON")).expect("JSON");
        assert_eq!(
            listing,
            value!({"version": 1, "total": 2, "connections": [
                {
                    "state": "TIME_WAIT", "peer": "192.0.2.7", "peer_port": 5, "local": "10.0.0.1",
                    "local_port": 443, "age": 7, "admitted": "handshake", "packets": 14, "wire_state": "TIME_WAIT"
                },
                {
                    "state": "SYN_RECV", "peer": "2001:db8::7", "peer_port": 9, "local": "2001:db8::1",
                    "local_port": 80, "age": null, "admitted": null, "packets": null, "wire_state": null
                },
            ]})
        );
    }

    #[test]
    fn summaries_count_by_port() {
        let summary = ConnsSummary::of(&example());
        let json: Value = serde_json::from_str(&summary.json(false).expect("JSON")).expect("JSON");
        assert_eq!(
            (&json["version"], json["states"].as_object().map(serde_json::Map::len)),
            (&value!(1), Some(8))
        );
        assert_eq!((&json["states"]["ESTABLISHED"], &json["states"]["CLOSING"]), (&value!(2), &value!(0)));
        assert_eq!(
            (&json["ports"]["80"]["SYN_RECV"], &json["ports"]["443"]["SYN_RECV"]),
            (&value!(1), &value!(0))
        );
        let text = summary.text(&|_| None, usize::MAX);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["80", "1", "2", "0", "0", "0", "0", "0", "0", "3"]);
        assert_eq!(lines[3], ["all", "1", "2", "0", "0", "0", "0", "0", "1", "4"]);
        assert_eq!(ConnsSummary::of(&[]).text(&|_| None, usize::MAX), "  no connections\n");
    }

    #[test]
    fn times_are_short() {
        let texts =
            [0, 59, 60, 252, 3599, 3600, 7300, 86_400, 450_000].map(|at| time(Duration::from_secs(at)));
        assert_eq!(texts, ["0s", "59s", "1m0s", "4m12s", "59m59s", "1h", "2h", "1d", "5d"]);
    }
}
