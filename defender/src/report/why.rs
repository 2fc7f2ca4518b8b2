//! `why`: everything known about a peer, as text and JSON. Pure.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    model::prose::paragraph,
    report::{
        VERSION,
        conns::{self, Names},
        next_syn::{ASSUMED, NextSyn},
        peer::{LastVerdict, PeerFacts},
        table,
    },
};

/// As text.
pub fn text(known: &PeerFacts, names: &Names<'_>, width: usize) -> String {
    let mut text = paragraph(&headline(known, names), 2, width);
    if !known.connections.is_empty() {
        text.push('\n');
        text.push_str(&conns::text(&known.connections, None, names, width));
    }
    if !known.verdicts.is_empty() {
        text.push('\n');
        text.push_str(&verdicts(&known.verdicts, names, width));
    }
    text.push('\n');
    text.push_str(&next_syn(&known.next_syn, names, width));
    text
}

fn headline(known: &PeerFacts, names: &Names<'_>) -> String {
    let about = match known.port {
        Some(port) => format!("{} at port {}", known.peer, named(port, names)),
        None => known.peer.to_string(),
    };
    let connections = match known.connections.len() {
        0 => "no connection".to_owned(),
        1 => "1 connection".to_owned(),
        several => format!("{several} connections"),
    };
    match (known.connections.is_empty(), known.verdicts.is_empty()) {
        (true, true) => {
            format!("nothing is known of {about}: no connection, no remembered verdict")
        }
        (false, true) => format!("{about}: {connections}; no remembered verdict"),
        (_, false) if known.peer.port.is_some() => {
            format!("{about}: {connections}; verdicts are remembered by address, for all its ports")
        }
        (_, false) => format!("{about}: {connections}"),
    }
}

fn verdicts(verdicts: &[LastVerdict], names: &Names<'_>, width: usize) -> String {
    let row = |verdict: &LastVerdict| {
        vec![
            verdict.reason.name().to_owned(),
            named(verdict.port, names),
            verdict.count.to_string(),
            format!("{} ago", conns::time(verdict.ago)),
            verdict.reason.describe().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = verdicts.iter().map(row).collect();
    table::fit(&["last verdicts", "port", "packets", "last", "meaning"], &rows, width)
}

fn next_syn(next: &[NextSyn], names: &Names<'_>, width: usize) -> String {
    if next.is_empty() {
        return "  no service that it could connect to\n".to_owned();
    }
    let row =
        |next: &NextSyn| vec![service(next, names), next.reason.name().to_owned(), next.explanation.clone()];
    let rows: Vec<Vec<String>> = next.iter().map(row).collect();
    let mut text = table::fit(&["its next syn to", "verdict", "because"], &rows, width);
    text.push('\n');
    for sentence in ASSUMED {
        text.push_str(&paragraph(&format!("assumed: {sentence}"), 2, width));
    }
    text
}

fn service(next: &NextSyn, names: &Names<'_>) -> String {
    let port = named(next.port, names);
    match next.address {
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        Some(v4) => format!("{v4}:{port}"),
        None => format!("port {port}"),
    }
}

/// A port of this host.
fn named(port: u16, names: &Names<'_>) -> String {
    names(port).unwrap_or_else(|| port.to_string())
}

#[derive(Serialize)]
struct Why {
    /// Version of the shape: 1.
    version: u32,
    /// The address in question.
    peer: IpAddr,
    /// Its port, if one was given.
    peer_port: Option<u16>,
    /// Its connections.
    connections: Vec<conns::Line>,
    /// The last verdicts on its packets, the latest first.
    verdicts: Vec<WhyVerdict>,
    /// The verdict on its next SYN, by service.
    next_syn: Vec<WhyNextSyn>,
    /// Assumptions about the SYN, one sentence each.
    assumed: [&'static str; ASSUMED.len()],
}

#[derive(Serialize)]
struct WhyVerdict {
    /// The verdict.
    reason: &'static str,
    /// The service's port.
    port: u16,
    /// Number of packets without a pause of a minute.
    count: u32,
    /// Seconds since the last of them.
    seconds_ago: u64,
}

#[derive(Serialize)]
struct WhyNextSyn {
    /// The port.
    port: u16,
    /// The service's address; null if no service listens on the port.
    address: Option<IpAddr>,
    /// The verdict on the SYN.
    reason: &'static str,
    /// Why.
    explanation: String,
}

impl From<&LastVerdict> for WhyVerdict {
    fn from(verdict: &LastVerdict) -> Self {
        let LastVerdict { reason, port, count, ago } = *verdict;
        Self { reason: reason.name(), port, count, seconds_ago: ago.as_secs() }
    }
}

impl From<&NextSyn> for WhyNextSyn {
    fn from(next: &NextSyn) -> Self {
        let NextSyn { port, address, reason, explanation } = next;
        Self { port: *port, address: *address, reason: reason.name(), explanation: explanation.clone() }
    }
}

/// As JSON.
pub fn json(known: &PeerFacts) -> Result<String> {
    let why = Why {
        version: VERSION,
        peer: known.peer.address,
        peer_port: known.peer.port,
        connections: known.connections.iter().map(conns::Line::from).collect(),
        verdicts: known.verdicts.iter().map(WhyVerdict::from).collect(),
        next_syn: known.next_syn.iter().map(WhyNextSyn::from).collect(),
        assumed: ASSUMED,
    };
    serde_json::to_string_pretty(&why).context("cannot write JSON")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use defender_common::{tcp_state::State, verdict::Reason};
    use serde_json::{Value, json as value};

    use super::*;
    use crate::report::conns::tests::connection;

    fn stranger() -> PeerFacts {
        PeerFacts {
            peer: "192.0.2.7:5".parse().expect("a peer"),
            port: None,
            connections: Vec::new(),
            verdicts: Vec::new(),
            next_syn: Vec::new(),
        }
    }

    fn example() -> PeerFacts {
        let ago = Duration::from_millis(61_500);
        PeerFacts {
            connections: vec![connection(State::Established, "192.0.2.7:5", "10.0.0.1:80", 7)],
            verdicts: vec![LastVerdict { reason: Reason::SynSigned, port: 80, count: 3, ago }],
            next_syn: vec![
                NextSyn::unprotected(99, "192.0.2.7".parse().expect("an address")),
                NextSyn {
                    port: 80,
                    address: Some("2001:db8::1".parse().expect("an address")),
                    reason: Reason::SynKnown,
                    explanation: "so it is".into(),
                },
            ],
            ..stranger()
        }
    }

    fn numbers(_: u16) -> Option<String> {
        None
    }

    #[test]
    fn ports_of_this_host_are_shown_by_name() {
        let names = |port| (port == 80).then(|| "http".to_owned());
        let text = text(&PeerFacts { port: Some(80), ..example() }, &names, usize::MAX);
        for part in [
            "192.0.2.7:5 at port http: 1 connection",
            "ESTABLISHED  192.0.2.7:5  10.0.0.1:http",
            "pass.syn_signed  http        3  1m1s ago",
            "port 99             pass.unprotected",
            "[2001:db8::1]:http  pass.syn_known",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn unknown_peers_are_called_so() {
        let text = text(&stranger(), &numbers, usize::MAX);
        assert!(text.starts_with("nothing is known of 192.0.2.7:5"), "{text}");
        assert!(text.contains("no service"), "{text}");
        let at_port = headline(&PeerFacts { port: Some(80), ..stranger() }, &numbers);
        assert!(at_port.starts_with("nothing is known of 192.0.2.7:5 at port 80:"), "{at_port}");
    }

    #[test]
    fn every_fact_is_printed() {
        let text = text(&example(), &numbers, usize::MAX);
        assert!(text.starts_with("192.0.2.7:5: 1 connection; verdicts are remembered by address"), "{text}");
        for part in [
            "ESTABLISHED  192.0.2.7:5",
            "pass.syn_signed    80        3  1m1s ago  SYN signed",
            "port 99           pass.unprotected  no known service",
            "[2001:db8::1]:80  pass.syn_known    so it is",
            "assumed: it is whole",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn json_has_the_shape_of_the_contract() {
        let why: Value = serde_json::from_str(&json(&example()).expect("JSON")).expect("JSON");
        assert_eq!(
            (&why["version"], &why["peer"], &why["peer_port"]),
            (&value!(1), &value!("192.0.2.7"), &value!(5))
        );
        assert_eq!(why["connections"][0]["state"], "ESTABLISHED");
        let verdict = value!({"reason": "pass.syn_signed", "port": 80, "count": 3, "seconds_ago": 61});
        assert_eq!(why["verdicts"], value!([verdict]));
        assert_eq!(why["next_syn"][0]["address"], Value::Null);
        assert_eq!(
            why["next_syn"][1],
            value!({"port": 80, "address": "2001:db8::1", "reason": "pass.syn_known", "explanation": "so it is"})
        );
        assert_eq!(why["assumed"].as_array().map(Vec::len), Some(ASSUMED.len()));
    }
}
