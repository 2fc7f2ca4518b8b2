//! Reports as JSON. The shapes are a contract: names may be added, but never change.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    dataplane::engine,
    model::{evidence::Evidence, hooks::HookCounts, lists::plan::ListCounts},
    report::{
        VERSION,
        health::Fault,
        snapshot::{InterfaceStatus, ServiceStatus, Snapshot},
    },
};

#[derive(Serialize)]
struct Stats<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// How connections are handed over: `reqsk`.
    engine: &'static str,
    /// The attached interfaces.
    interfaces: Vec<StatsInterface<'a>>,
    /// The services, by port.
    services: Vec<StatsService<'a>>,
    /// Packets by verdict.
    verdicts: BTreeMap<&'static str, u64>,
    /// Packets a second by verdict, measured for 0.2 s; with `--watch`, since the reading before.
    rates: BTreeMap<&'static str, u64>,
    /// All counters.
    counters: BTreeMap<&'static str, u64>,
    /// Connections by the kernel's state, as `ss` counts them: `SYN_RECV`, `ESTABLISHED`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `CLOSING`, `LAST_ACK`, `TIME_WAIT`.
    states: &'a BTreeMap<&'static str, u64>,
    /// What became of the events that hooks were to be run for, since the controller started.
    hooks: HookCounts,
}

#[derive(Serialize)]
struct StatsInterface<'a> {
    /// The interface's name.
    name: &'a str,
    /// How the XDP program runs: `native`, `generic`, `offloaded`, `none`; `gone` if the interface no
    /// longer exists.
    xdp_mode: &'static str,
}

#[derive(Serialize)]
struct StatsService<'a> {
    /// The service's port.
    port: u16,
    /// The service's address; `0.0.0.0` or `::` for every address.
    address: String,
    /// The mode in force.
    mode: &'static str,
    /// Whether SYNs are challenged now.
    active: bool,
    /// Connections in SYN_RECV.
    half_open: u64,
    /// SYNs a second, measured as `rates` are.
    syn_rate: u64,
    /// The mitigation level: `pass`, `challenge`, `limit`, `known_sources`. `active` tells whether the mode
    /// acts on it.
    level: &'static str,
    /// Mode `monitor`: what mode `auto` would have done.
    would_have_challenged: WouldHaveChallenged,
    /// The service's counters.
    counters: BTreeMap<&'static str, u64>,
    /// The service's connections by state.
    states: &'a BTreeMap<&'static str, u64>,
}

/// Results of a dry run.
#[derive(Serialize)]
struct WouldHaveChallenged {
    /// SYNs that mode `auto` would have challenged.
    syns: u64,
    /// Of these: SYNs of clients that completed the handshake.
    clients: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// How connections are handed over: `reqsk`.
    engine: &'static str,
    /// Process id of the controller.
    controller: Option<u32>,
    /// `alive`, `stopped`, `stuck`, `died`, or `none` if defender runs without a controller on purpose.
    controller_state: &'static str,
    /// Faults of the defence, one sentence each. Empty: exit status 0.
    faults: Vec<String>,
    /// The mode of all ports without a mode of their own.
    mode: &'static str,
    /// A setting that has one value for all ports: `reply_budget`, `out_of_state_budget`.
    #[serde(flatten)]
    settings: BTreeMap<&'static str, u32>,
    /// The attached interfaces.
    interfaces: Vec<StatusInterface<'a>>,
    /// The services, by port.
    services: Vec<StatusService<'a>>,
    /// How many prefixes are on the lists.
    prefixes: ListCounts,
    /// Further notes for the operator, one sentence each.
    warnings: &'a [String],
    /// What became of the events that hooks were to be run for, since the controller started.
    hooks: HookCounts,
}

#[derive(Serialize)]
struct StatusInterface<'a> {
    #[serde(flatten)]
    stats: StatsInterface<'a>,
    /// Whether the interface is up.
    up: bool,
    /// Why the interface is not defended: `gone`, `detached`, `down` or `hindered`.
    fault: Option<&'static str>,
    /// VLAN devices on it to which the hand-off is attached as well.
    vlans: &'a [String],
}

#[derive(Serialize)]
struct StatusService<'a> {
    #[serde(flatten)]
    stats: StatsService<'a>,
    /// Why the service cannot be protected.
    unprotectable: Option<&'a str>,
    /// What triggered the level, as in events.
    trigger: &'static str,
    /// How long the service has been mitigating, in seconds.
    attack_seconds: Option<u64>,
    /// Statistics of the service's SYNs.
    evidence: &'a Evidence,
}

impl<'a> From<&'a InterfaceStatus> for StatsInterface<'a> {
    fn from(interface: &'a InterfaceStatus) -> Self {
        Self { name: &interface.name, xdp_mode: interface.xdp_mode }
    }
}

impl<'a> From<&'a ServiceStatus> for StatsService<'a> {
    fn from(service: &'a ServiceStatus) -> Self {
        Self {
            port: service.endpoint.port,
            address: service.endpoint.address.to_string(),
            mode: service.mode.name(),
            active: service.active,
            half_open: service.half_open(),
            syn_rate: service.syn_rate,
            level: service.level.name(),
            would_have_challenged: WouldHaveChallenged {
                syns: service.counters.syn_would_challenge,
                clients: service.counters.client_would_challenge,
            },
            counters: service.counters.named().collect(),
            states: &service.states,
        }
    }
}

impl<'a> From<&'a InterfaceStatus> for StatusInterface<'a> {
    fn from(interface: &'a InterfaceStatus) -> Self {
        Self {
            stats: interface.into(),
            up: interface.up,
            fault: interface.fault.as_ref().map(Fault::name),
            vlans: &interface.vlans,
        }
    }
}

impl<'a> From<&'a ServiceStatus> for StatusService<'a> {
    fn from(service: &'a ServiceStatus) -> Self {
        Self {
            stats: service.into(),
            unprotectable: service.unprotectable.as_deref(),
            trigger: service.trigger.name(),
            attack_seconds: service.attack_seconds,
            evidence: &service.evidence,
        }
    }
}

/// `stats --json`, on one line or several.
pub fn stats(snapshot: &Snapshot, one_line: bool) -> Result<String> {
    let stats = Stats {
        version: VERSION,
        engine: engine::NAME,
        interfaces: snapshot.interfaces.iter().map(StatsInterface::from).collect(),
        services: snapshot.services.iter().map(StatsService::from).collect(),
        verdicts: snapshot.verdicts().map(|(reason, count)| (reason.name(), count)).collect(),
        rates: snapshot.rates().map(|(reason, rate)| (reason.name(), rate)).collect(),
        counters: snapshot.totals().into_iter().collect(),
        states: &snapshot.states,
        hooks: snapshot.hooks,
    };
    let text = if one_line { serde_json::to_string(&stats) } else { serde_json::to_string_pretty(&stats) };
    text.context("cannot write JSON")
}

/// `status --json`, on one line or several.
pub fn status(snapshot: &Snapshot, one_line: bool) -> Result<String> {
    let status = Status {
        version: VERSION,
        engine: engine::NAME,
        controller: snapshot.control.pid(),
        controller_state: snapshot.control.name(),
        faults: snapshot.faults(),
        mode: snapshot.settings.mode().name(),
        settings: snapshot.settings.globals(),
        interfaces: snapshot.interfaces.iter().map(StatusInterface::from).collect(),
        services: snapshot.services.iter().map(StatusService::from).collect(),
        prefixes: snapshot.listed,
        warnings: &snapshot.warnings,
        hooks: snapshot.hooks,
    };
    let text = if one_line { serde_json::to_string(&status) } else { serde_json::to_string_pretty(&status) };
    text.context("cannot write JSON")
}

#[cfg(test)]
mod tests {
    use defender_common::abi::ServiceCounters;
    use serde_json::{Value, json};

    use super::*;
    use crate::report::snapshot::tests::example;

    fn names(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    #[test]
    fn stats_have_the_shape_of_the_contract() {
        let mut stats: Value = serde_json::from_str(&stats(&example(), true).expect("JSON")).expect("JSON");
        for service in stats["services"].as_array_mut().expect("an array") {
            let counters = service.as_object_mut().and_then(|service| service.remove("counters"));
            assert_eq!(counters.map(|counters| names(&counters).len()), Some(ServiceCounters::ALL.len()));
        }
        assert_eq!(
            names(&stats),
            [
                "counters",
                "engine",
                "hooks",
                "interfaces",
                "rates",
                "services",
                "states",
                "verdicts",
                "version"
            ]
        );
        assert_eq!(stats["version"], 1);
        assert_eq!(stats["engine"], "reqsk");
        assert_eq!(stats["interfaces"], json!([{"name": "eth0", "xdp_mode": "native"}]));
        assert_eq!(
            stats["services"],
            json!([
                {"port": 80, "address": "::", "mode": "always", "active": true, "half_open": 3, "syn_rate": 1000,
                 "level": "pass", "would_have_challenged": {"syns": 0, "clients": 0}, "states": {"SYN_RECV": 3}},
                {"port": 443, "address": "192.0.2.1", "mode": "monitor", "active": false, "half_open": 0, "syn_rate": 0,
                 "level": "pass", "would_have_challenged": {"syns": 0, "clients": 0}, "states": {}},
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
    fn every_counter_of_a_service_is_listed() {
        let mut snapshot = example();
        snapshot.services[0].counters = ServiceCounters { syn_limited: 7, ..ServiceCounters::default() };
        for report in [stats(&snapshot, true), status(&snapshot, true)] {
            let report: Value = serde_json::from_str(&report.expect("JSON")).expect("JSON");
            let counters = report["services"][0]["counters"].as_object().expect("an object");
            assert!(
                ServiceCounters::ALL.iter().all(|(name, _)| counters.contains_key(*name)),
                "{counters:?}"
            );
            assert_eq!(counters["syn_limited"], 7);
        }
    }

    #[test]
    fn both_reports_count_hooks() {
        let mut snapshot = example();
        snapshot.hooks = HookCounts { succeeded: 7, failed: 2, timed_out: 1, dropped: 3 };
        for report in [stats(&snapshot, true), status(&snapshot, true)] {
            let report: Value = serde_json::from_str(&report.expect("JSON")).expect("JSON");
            assert_eq!(report["hooks"], json!({"succeeded": 7, "failed": 2, "timed_out": 1, "dropped": 3}));
        }
    }

    #[test]
    fn status_explains() {
        let status: Value = serde_json::from_str(&status(&example(), false).expect("JSON")).expect("JSON");
        assert_eq!(status["version"], 1);
        assert_eq!(status["services"][1]["unprotectable"], "it is MPTCP");
        assert_eq!(status["interfaces"][0]["up"], true);
        assert_eq!(status["prefixes"], json!({"allowed": 2, "denied": 1_200_000}));
    }
}
