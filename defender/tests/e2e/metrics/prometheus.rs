//! A real Prometheus scrapes through a whole flood, and its alerts fire.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use defender_testbed::{
    flood::{Flood, Kind, Range},
    programs::Program,
    prometheus::Prometheus,
    server::{self, Server},
    simulated_clients::SimulatedClients,
    topology::{Options, Topology},
};

use super::bed::{METRICS, PORT, Scene};
use crate::harness::{eventually, status};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus/defender.rules.yml");

#[test]
fn prometheus_sees_a_flood_from_beginning_to_end() -> Result<()> {
    let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
    // What is averted is forgotten after four seconds.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    let address = bed.server_v4(PORT);
    let options = server::Options { backlog: 128, ..server::Options::default() };
    let _server = Server::with(&bed.server, address, options)?;
    let scene = Scene::new(&bed, "auto")?;
    scene.defender.wait_for_listener(PORT)?;
    scene.defender.ask(&["set", "min_active", "2"])?;
    let prometheus = Prometheus::start(&bed.server, METRICS, Path::new(RULES))?;
    eventually("it is scraped", || Ok(prometheus.value("min_over_time(up[10s])")? == Some(1.0)))?;
    let firing =
        |alert: &str| prometheus.value(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"));
    ensure!(firing("DefenderAttack")?.is_none());
    let flood = Flood {
        source: Range::V4([198, 18, 0, 0].into(), 16),
        rate: Some(4000),
        max_time: Duration::from_secs(60),
        max_packets: 4000 * 60,
        ..Flood::new(Kind::LinuxSyn, address)
    };
    let flood = flood.start(&bed)?;
    eventually("the alert fires", || Ok(firing("DefenderAttack")? == Some(1.0)))?;
    eventually("the rates are there", || {
        Ok(prometheus.value("rate(defender_syns_total{outcome=\"challenged\"}[5s])")?.unwrap_or(0.0) > 100.0)
    })?;
    ensure!(prometheus.value(&format!("defender_queue_limit{{service=\"{address}\"}}"))? == Some(128.0));
    flood.stop()?;
    eventually("the alert is over", || {
        // Levels fall on packets only.
        SimulatedClients::new(&bed, address).of(&bed, 3, 10).run(&bed)?;
        Ok(firing("DefenderAttack")?.is_none())
    })?;
    // Not one scrape was lost, and nothing else has fired.
    let lost = "count_over_time(up[5m]) - sum_over_time(up[5m])";
    ensure!(prometheus.value(lost)? == Some(0.0), "{:?}", prometheus.query(lost)?);
    let others = prometheus
        .query("ALERTS{alertstate=\"firing\",alertname!=\"DefenderAttack\",severity=\"critical\"}")?;
    ensure!(others.is_empty(), "{others:?}");
    // What it has is what is counted.
    eventually("the last counts are scraped", || {
        let counted = scene.defender.counter("syn_challenged")? as f64;
        Ok(prometheus.value("defender_packets_total{reason=\"syn_challenged\"}")? == Some(counted))
    })?;
    ensure!(status(&scene.defender)?["faults"].as_array().is_some_and(Vec::is_empty));
    Ok(())
}
