//! Reports for programs. The shapes are a contract: names are added, never changed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    control::lists::plan::Tally,
    report::{
        evidence::Evidence,
        snapshot::{ENGINE, Interface, Service, Snapshot},
    },
};

/// Version of the shapes.
pub(super) const VERSION: u32 = 1;

#[derive(Serialize)]
struct Stats<'a> {
    version: u32,
    engine: &'static str,
    interfaces: Vec<StatsInterface<'a>>,
    services: Vec<StatsService<'a>>,
    verdicts: BTreeMap<&'static str, u64>,
    rates: BTreeMap<&'static str, u64>,
    counters: BTreeMap<&'static str, u64>,
    states: &'a BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct StatsInterface<'a> {
    name: &'a str,
    xdp_mode: &'static str,
}

#[derive(Serialize)]
struct StatsService<'a> {
    port: u16,
    address: String,
    mode: &'static str,
    active: bool,
    half_open: u64,
    syn_rate: u64,
    step: &'static str,
    would_have_challenged: WouldHaveChallenged,
    states: &'a BTreeMap<&'static str, u64>,
}

/// What a dry run came to.
#[derive(Serialize)]
struct WouldHaveChallenged {
    syns: u64,
    clients: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    engine: &'static str,
    controller: Option<u32>,
    mode: &'static str,
    reply_budget: u32,
    interfaces: Vec<StatusInterface<'a>>,
    services: Vec<StatusService<'a>>,
    prefixes: Tally,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct StatusInterface<'a> {
    #[serde(flatten)]
    stats: StatsInterface<'a>,
    up: bool,
    vlans: &'a [String],
}

#[derive(Serialize)]
struct StatusService<'a> {
    #[serde(flatten)]
    stats: StatsService<'a>,
    unprotectable: Option<&'a str>,
    because: &'static str,
    attack_seconds: Option<u64>,
    evidence: &'a Evidence,
}

impl<'a> From<&'a Interface> for StatsInterface<'a> {
    fn from(interface: &'a Interface) -> Self {
        Self { name: &interface.name, xdp_mode: interface.xdp_mode }
    }
}

impl<'a> From<&'a Service> for StatsService<'a> {
    fn from(service: &'a Service) -> Self {
        Self {
            port: service.endpoint.port,
            address: service.endpoint.address.to_string(),
            mode: service.mode.name(),
            active: service.active,
            half_open: service.half_open(),
            syn_rate: service.syn_rate,
            step: service.step.name(),
            would_have_challenged: WouldHaveChallenged {
                syns: service.counters.syn_would_challenge,
                clients: service.counters.client_would_challenge,
            },
            states: &service.states,
        }
    }
}

impl<'a> From<&'a Interface> for StatusInterface<'a> {
    fn from(interface: &'a Interface) -> Self {
        Self { stats: interface.into(), up: interface.up, vlans: &interface.vlans }
    }
}

impl<'a> From<&'a Service> for StatusService<'a> {
    fn from(service: &'a Service) -> Self {
        Self {
            stats: service.into(),
            unprotectable: service.unprotectable.as_deref(),
            because: service.because.name(),
            attack_seconds: service.attack_seconds,
            evidence: &service.evidence,
        }
    }
}

/// `stats --json`, on one line or several.
pub fn stats(snapshot: &Snapshot, one_line: bool) -> Result<String> {
    let stats = Stats {
        version: VERSION,
        engine: ENGINE,
        interfaces: snapshot.interfaces.iter().map(StatsInterface::from).collect(),
        services: snapshot.services.iter().map(StatsService::from).collect(),
        verdicts: snapshot.verdicts().map(|(reason, count)| (reason.name(), count)).collect(),
        rates: snapshot.rates().map(|(reason, rate)| (reason.name(), rate)).collect(),
        counters: snapshot.totals().into_iter().collect(),
        states: &snapshot.states,
    };
    let text = if one_line { serde_json::to_string(&stats) } else { serde_json::to_string_pretty(&stats) };
    text.context("cannot write JSON")
}

/// `status --json`.
pub fn status(snapshot: &Snapshot) -> Result<String> {
    let status = Status {
        version: VERSION,
        engine: ENGINE,
        controller: snapshot.controller,
        mode: snapshot.settings.mode().name(),
        reply_budget: snapshot.settings.reply_budget(),
        interfaces: snapshot.interfaces.iter().map(StatusInterface::from).collect(),
        services: snapshot.services.iter().map(StatusService::from).collect(),
        prefixes: snapshot.listed,
        warnings: &snapshot.warnings,
    };
    serde_json::to_string_pretty(&status).context("cannot write JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::snapshot::tests::example;

    fn names(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn stats_have_the_shape_of_the_contract() {
        let stats: Value = serde_json::from_str(&stats(&example(), true).expect("JSON")).expect("JSON");
        assert_eq!(
            names(&stats),
            ["counters", "engine", "interfaces", "rates", "services", "states", "verdicts", "version"]
        );
        assert_eq!(stats["version"], 1);
        assert_eq!(stats["engine"], "reqsk");
        assert_eq!(stats["interfaces"], json!([{"name": "eth0", "xdp_mode": "native"}]));
        assert_eq!(
            stats["services"],
            json!([
                {"port": 80, "address": "::", "mode": "always", "active": true, "half_open": 3, "syn_rate": 1000,
                 "step": "pass", "would_have_challenged": {"syns": 0, "clients": 0}, "states": {"SYN_RECV": 3}},
                {"port": 443, "address": "192.0.2.1", "mode": "monitor", "active": false, "half_open": 0, "syn_rate": 0,
                 "step": "pass", "would_have_challenged": {"syns": 0, "clients": 0}, "states": {}},
            ])
        );
        assert_eq!(
            stats["counters"],
            json!({
                "rx_packets": 1 + 10 + 200 + 3000 + 40_000 + 500_000,
                "syn_received": 10 + 200,
                "syn_challenged": 200,
                "syn_passed": 10,
                "ack_accepted": 3000,
                "ack_rejected": 40_000,
                "malformed": 500_000,
                "handoff_assigned": 2900,
                "handoff_established": 2800,
                "handoff_repeated": 7,
                "handoff_failed": 5 + 4,
                "handoff_no_listener": 5,
                "handoff_queue_full": 0,
                "handoff_already_known": 0,
                "handoff_refused_invalid": 4,
                "handoff_refused_namespace": 0,
                "handoff_refused_memory": 0,
                "handoff_refused_other": 0,
                "handoff_unreadable": 0,
                "flows_opened": 0,
                "flows_pushed_out": 0,
                "flows_established": 0,
                "flows_no_room": 0,
                "flows_ended": 0,
            })
        );
        assert_eq!(stats["states"], json!({"ESTABLISHED": 12, "SYN_RECV": 3}));
    }

    #[test]
    fn verdicts_are_all_there_and_add_up() {
        let stats: Value = serde_json::from_str(&stats(&example(), false).expect("JSON")).expect("JSON");
        let verdicts = stats["verdicts"].as_object().expect("an object");
        assert_eq!(verdicts.len(), defender_common::verdict::Reason::COUNT);
        let sum: u64 = verdicts.values().map(|value| value.as_u64().expect("a count")).sum();
        assert_eq!(stats["counters"]["rx_packets"], sum);
    }

    #[test]
    fn status_explains() {
        let status: Value = serde_json::from_str(&status(&example()).expect("JSON")).expect("JSON");
        assert_eq!(status["version"], 1);
        assert_eq!(status["services"][1]["unprotectable"], "it is MPTCP");
        assert_eq!(status["interfaces"][0]["up"], true);
        assert_eq!(status["prefixes"], json!({"allowed": 2, "denied": 1_200_000}));
    }
}
