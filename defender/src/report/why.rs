//! `why`: what is known of a peer, in words and as JSON. Pure.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report::{
    conns, json,
    next_syn::{ASSUMED, NextSyn},
    peer::{Known, LastVerdict},
    table,
};

/// For people.
pub fn text(known: &Known) -> String {
    let mut text = headline(known);
    if !known.connections.is_empty() {
        text.push('\n');
        text.push_str(&conns::text(&known.connections, None));
    }
    if !known.verdicts.is_empty() {
        text.push('\n');
        text.push_str(&verdicts(&known.verdicts));
    }
    text.push('\n');
    text.push_str(&next_syn(&known.next_syn));
    text
}

fn headline(known: &Known) -> String {
    let about = match known.port {
        Some(port) => format!("{} at port {port}", known.peer),
        None => known.peer.to_string(),
    };
    let connections = match known.connections.len() {
        0 => "no connection".to_owned(),
        1 => "1 connection".to_owned(),
        several => format!("{several} connections"),
    };
    match (known.connections.is_empty(), known.verdicts.is_empty()) {
        (true, true) => {
            format!("nothing is known of {about}: it has no connection, and no verdict is remembered\n")
        }
        (false, true) => format!("{about}: {connections}; no verdict is remembered\n"),
        (_, false) if known.peer.port.is_some() => {
            format!("{about}: {connections}; verdicts are remembered by address, whatever the peer's port\n")
        }
        (_, false) => format!("{about}: {connections}\n"),
    }
}

fn verdicts(verdicts: &[LastVerdict]) -> String {
    let row = |verdict: &LastVerdict| {
        vec![
            verdict.reason.name().to_owned(),
            verdict.port.to_string(),
            verdict.count.to_string(),
            format!("{} ago", conns::time(verdict.ago)),
            verdict.reason.describe().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = verdicts.iter().map(row).collect();
    table::render(&["last verdicts", "port", "packets", "last", "meaning"], &rows)
}

fn next_syn(next: &[NextSyn]) -> String {
    if next.is_empty() {
        return "  there is no service that its SYNs could be to\n".to_owned();
    }
    let row = |next: &NextSyn| vec![service(next), next.reason.name().to_owned(), next.because.clone()];
    let rows: Vec<Vec<String>> = next.iter().map(row).collect();
    let mut text = table::render(&["its next syn to", "verdict", "because"], &rows);
    text.push('\n');
    for sentence in ASSUMED {
        let _ = writeln!(text, "assumed: {sentence}");
    }
    text
}

fn service(next: &NextSyn) -> String {
    match next.address {
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{}", next.port),
        Some(v4) => format!("{v4}:{}", next.port),
        None => format!("port {}", next.port),
    }
}

#[derive(Serialize)]
struct Why {
    version: u32,
    peer: IpAddr,
    peer_port: Option<u16>,
    connections: Vec<conns::Line>,
    verdicts: Vec<WhyVerdict>,
    next_syn: Vec<WhyNextSyn>,
    assumed: [&'static str; ASSUMED.len()],
}

#[derive(Serialize)]
struct WhyVerdict {
    reason: &'static str,
    port: u16,
    count: u32,
    seconds_ago: u64,
}

#[derive(Serialize)]
struct WhyNextSyn {
    port: u16,
    address: Option<IpAddr>,
    reason: &'static str,
    because: String,
}

impl From<&LastVerdict> for WhyVerdict {
    fn from(verdict: &LastVerdict) -> Self {
        let LastVerdict { reason, port, count, ago } = *verdict;
        Self { reason: reason.name(), port, count, seconds_ago: ago.as_secs() }
    }
}

impl From<&NextSyn> for WhyNextSyn {
    fn from(next: &NextSyn) -> Self {
        let NextSyn { port, address, reason, because } = next;
        Self { port: *port, address: *address, reason: reason.name(), because: because.clone() }
    }
}

/// For programs.
pub fn json(known: &Known) -> Result<String> {
    let why = Why {
        version: json::VERSION,
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

    fn stranger() -> Known {
        Known {
            peer: "192.0.2.7:5".parse().expect("a peer"),
            port: None,
            connections: Vec::new(),
            verdicts: Vec::new(),
            next_syn: Vec::new(),
        }
    }

    fn example() -> Known {
        let ago = Duration::from_millis(61_500);
        Known {
            connections: vec![connection(State::Established, "192.0.2.7:5", "10.0.0.1:80", 7)],
            verdicts: vec![LastVerdict { reason: Reason::SynSigned, port: 80, count: 3, ago }],
            next_syn: vec![
                NextSyn::unprotected(99, "192.0.2.7".parse().expect("an address")),
                NextSyn {
                    port: 80,
                    address: Some("2001:db8::1".parse().expect("an address")),
                    reason: Reason::SynKnown,
                    because: "so it is".into(),
                },
            ],
            ..stranger()
        }
    }

    #[test]
    fn strangers_are_called_so() {
        let text = text(&stranger());
        assert!(text.starts_with("nothing is known of 192.0.2.7:5"), "{text}");
        assert!(text.contains("no service"), "{text}");
        let at_port = headline(&Known { port: Some(80), ..stranger() });
        assert!(at_port.starts_with("nothing is known of 192.0.2.7:5 at port 80:"), "{at_port}");
    }

    #[test]
    fn everything_is_said() {
        let text = text(&example());
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
            value!({"port": 80, "address": "2001:db8::1", "reason": "pass.syn_known", "because": "so it is"})
        );
        assert_eq!(why["assumed"].as_array().map(Vec::len), Some(ASSUMED.len()));
    }
}
