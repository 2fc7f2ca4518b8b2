//! Reports for programs. The shapes are a contract: names are added, never changed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report::snapshot::{ENGINE, Interface, Service, Snapshot};

/// Version of the shapes.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Stats<'a> {
    version: u32,
    engine: &'static str,
    interfaces: Vec<StatsInterface<'a>>,
    services: Vec<StatsService>,
    verdicts: BTreeMap<&'static str, u64>,
    counters: BTreeMap<&'static str, u64>,
    states: &'a BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct StatsInterface<'a> {
    name: &'a str,
    xdp_mode: &'static str,
}

#[derive(Serialize)]
struct StatsService {
    port: u16,
    address: String,
    mode: &'static str,
    active: bool,
    half_open: u64,
    syn_rate: u64,
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
    stats: StatsService,
    unprotectable: Option<&'a str>,
}

impl<'a> From<&'a Interface> for StatsInterface<'a> {
    fn from(interface: &'a Interface) -> Self {
        Self { name: &interface.name, xdp_mode: interface.xdp_mode }
    }
}

impl From<&Service> for StatsService {
    fn from(service: &Service) -> Self {
        Self {
            port: service.endpoint.port,
            address: service.endpoint.address.to_string(),
            mode: service.mode.name(),
            active: service.active,
            half_open: service.half_open,
            syn_rate: service.syn_rate,
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
        Self { stats: service.into(), unprotectable: service.unprotectable.as_deref() }
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
        mode: snapshot.settings.mode.name(),
        reply_budget: snapshot.settings.reply_budget,
        interfaces: snapshot.interfaces.iter().map(StatusInterface::from).collect(),
        services: snapshot.services.iter().map(StatusService::from).collect(),
        warnings: &snapshot.warnings,
    };
    serde_json::to_string_pretty(&status).context("cannot write JSON")
}
