//! Metrics say what `stats --json` says.

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{http, topology::Topology};
use serde_json::Value;

use super::bed::{METRICS, PORT, Scene, Scraped, serve, topology};
use crate::harness::{connect, eventually, process, talk, wait_active};

/// What differs between metrics and `stats --json`; empty: nothing.
fn differences(stats: &Value, metrics: &Scraped) -> Result<Vec<String>> {
    let mut expected = Vec::new();
    for (name, count) in stats["verdicts"].as_object().context("no verdicts")? {
        let (verdict, reason) = name.split_once('.').context("no verdict")?;
        expected.push((
            format!("defender_packets_total{{verdict=\"{verdict}\",reason=\"{reason}\"}}"),
            count.clone(),
        ));
    }
    for (name, count) in stats["counters"].as_object().context("no counters")? {
        if let Some(outcome) = name.strip_prefix("handoff_").filter(|outcome| *outcome != "failed") {
            expected.push((format!("defender_handoffs_total{{outcome=\"{outcome}\"}}"), count.clone()));
        } else if let Some(event) = name.strip_prefix("flows_") {
            expected.push((format!("defender_flows_total{{event=\"{event}\"}}"), count.clone()));
        }
    }
    for service in stats["services"].as_array().context("no services")? {
        let address = service["address"].as_str().context("no address")?;
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let label = format!("service=\"{address}:{}\"", service["port"]);
        let counters = &service["counters"];
        let count = |name: &str| counters[name].as_u64().with_context(|| name.to_owned());
        let labelled = ["syn_challenged", "syn_limited", "syn_would_challenge"].map(count);
        let labelled = labelled.into_iter().sum::<Result<u64>>()?;
        for (metric, more, value) in [
            ("syns_total", ",outcome=\"challenged\"", counters["syn_challenged"].clone()),
            ("syns_total", ",outcome=\"other\"", (count("syn_received")? - labelled).into()),
            ("cookie_acks_total", ",outcome=\"accepted\"", counters["ack_accepted"].clone()),
            ("cookie_acks_total", ",outcome=\"rejected\"", counters["ack_rejected"].clone()),
            ("service_handoffs_total", ",outcome=\"assigned\"", counters["handoff_assigned"].clone()),
            ("out_of_state_total", ",kind=\"rst\"", counters["out_of_state_rsts"].clone()),
            ("proved_total", "", counters["proved"].clone()),
            ("established_total", "", counters["established"].clone()),
            ("established_by_cookie_total", "", counters["handoff_established"].clone()),
            ("half_open", "", service["half_open"].clone()),
            ("challenging", "", u64::from(service["active"] == true).into()),
        ] {
            expected.push((format!("defender_{metric}{{{label}{more}}}"), value));
        }
        for (state, number) in service["states"].as_object().context("no states")? {
            expected.push((format!("defender_connections{{{label},state=\"{state}\"}}"), number.clone()));
        }
    }
    ensure!(expected.len() > 80, "{expected:?}");
    let differs = |(series, value): &(String, Value)| value.as_f64() != Some(metrics.get(series));
    let describe = |(series, value): (String, Value)| {
        format!("{series}: {value} in stats, {} in metrics", metrics.get(&series))
    };
    Ok(expected.into_iter().filter(differs).map(describe).collect())
}

fn require_agreement(scene: &Scene<'_>) -> Result<()> {
    let mut last = Vec::new();
    let agreed = eventually("metrics and stats agree at a quiet moment", || {
        // A page may be a second old, so what it says lies between two looks.
        let before = scene.defender.statistics()?;
        last = differences(&before, &scene.scrape()?)?;
        Ok(last.is_empty())
    });
    agreed.with_context(|| last.join("\n"))
}

#[test]
fn counters_agree_with_stats_after_clients_and_a_flood() -> Result<()> {
    let bed = topology()?;
    let addresses = [bed.server_v4(PORT), bed.server_v6(PORT + 1)];
    let _servers = addresses.iter().map(|address| serve(&bed, *address)).collect::<Result<Vec<_>>>()?;
    let scene = Scene::new(&bed, "always")?;
    for address in addresses {
        wait_active(&scene.defender, address.port())?;
    }
    require_agreement(&scene)?;
    let mut streams = Vec::new();
    for round in 0..6 {
        let address = addresses[round % 2];
        streams.push(connect(&bed, bed.fresh_client(address), address)?);
    }
    defender_testbed::small_flood::during(&bed, &addresses, || {
        streams.iter_mut().try_for_each(talk)?;
        eventually("the flood is challenged", || Ok(scene.defender.counter("syn_challenged")? > 200))
    })?;
    require_agreement(&scene)?;
    let metrics = scene.scrape()?;
    assert!(metrics.get("defender_packets_total{verdict=\"tx\",reason=\"syn_challenged\"}") > 200.0);
    let established = |port| format!("defender_established_by_cookie_total{{service=\"{port}\"}}");
    assert_eq!(metrics.get(&established(addresses[0])) as u64, 3, "{metrics:?}");
    drop(streams);
    require_agreement(&scene)
}

#[test]
fn promtool_finds_nothing_to_improve_and_no_client_is_named() -> Result<()> {
    let bed = topology()?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let scene = Scene::new(&bed, "always")?;
    wait_active(&scene.defender, PORT)?;
    let client = bed.fresh_client(address);
    let _stream = connect(&bed, client, address)?;
    for (accept, ends) in [("", false), ("Accept: application/openmetrics-text;version=1.0.0\r\n", true)] {
        let answer = http::get(&bed.server, METRICS, "/metrics", accept)?;
        assert_eq!(answer.body.ends_with("# EOF\n"), ends, "{accept}");
        assert_eq!(
            answer.head.contains("application/openmetrics-text; version=1.0.0"),
            ends,
            "{}",
            answer.head
        );
        assert!(!answer.body.contains(&client.ip().to_string()), "{}", answer.body);
    }
    let page = scene.scratch.write("metrics", scene.get("/metrics")?.body)?;
    let script = scene.scratch.write("check", format!("promtool check metrics < {} 2>&1", page.display()))?;
    let found = process::run(&bed.server, "sh", &script.display().to_string())?;
    ensure!(found.is_empty(), "{found}");
    Ok(())
}

/// What the kernel counts for the interface is what the series says.
#[test]
fn drops_before_xdp_are_those_of_the_interface() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, "monitor")?;
    let name = bed.server_device();
    let series = format!("defender_nic_drops_total{{interface=\"{name}\",counter=\"rx_missed_errors\"}}");
    let shown: Value = serde_json::from_str(&bed.server.ip(&format!("-s -s -j link show {name}"))?)?;
    let expected = shown[0]["stats64"]["rx"]["missed_errors"].as_f64();
    assert_eq!(Some(scene.scrape()?.get(&series)), expected, "{shown}");
    assert_eq!(scene.scrape()?.get(&format!("defender_interface_protected{{interface=\"{name}\"}}")), 1.0);
    Ok(())
}
