//! Thousands of services, and what a scrape of a thousand costs.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::topology::Topology;

use super::bed::Scene;
use crate::harness::eventually;

/// As many services have series of their own.
const SERIES: usize = 256;
/// A page is made anew after this.
const FRESH: Duration = Duration::from_millis(1100);

fn listeners(bed: &Topology, number: u16) -> Result<Vec<TcpListener>> {
    let address = bed.server_v4(0).ip();
    bed.server.run(|| (0..number).map(|port| Ok(TcpListener::bind((address, 10_000 + port))?)).collect())
}

fn processor_time(scene: &Scene<'_>) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", scene.defender.id()));
    let nanoseconds: f64 = stat?.split(' ').next().and_then(|first| first.parse().ok()).context("no time")?;
    Ok(nanoseconds / 1e6)
}

#[test]
fn thousands_of_services_have_bounded_series() -> Result<()> {
    let bed = Topology::new()?;
    let _listeners = listeners(&bed, 3000)?;
    let scene = Scene::new(&bed, "monitor")?;
    let mut services = 0.0;
    eventually("as many services as there is room for are known", || {
        services = scene.scrape()?.get("defender_services");
        Ok(services >= 1000.0)
    })?;
    let scraped = scene.scrape()?;
    let of = |name: &str| scraped.0.keys().filter(|series| series.starts_with(&format!("{name}{{"))).count();
    assert_eq!(of("defender_half_open"), SERIES + 1, "{services} services");
    assert_eq!(of("defender_syns_total"), 4 * (SERIES + 1));
    assert!(scraped.0.len() < 50 * SERIES, "{} series", scraped.0.len());
    assert!(scraped.get("defender_queue_limit{service=\"other\"}") >= services - SERIES as f64);
    Ok(())
}

/// Prints what a scrape costs: on a busy machine, and built for debugging, that says nothing by itself.
#[test]
fn what_a_scrape_of_a_thousand_services_costs_is_printed() -> Result<()> {
    let bed = Topology::new()?;
    let _listeners = listeners(&bed, 1000)?;
    let scene = Scene::new(&bed, "monitor")?;
    eventually("all services are known", || Ok(scene.scrape()?.get("defender_services") >= 1000.0))?;
    let mut times = Vec::new();
    for _ in 0..5 {
        std::thread::sleep(FRESH);
        let before = Instant::now();
        ensure!(scene.get("/metrics")?.status == 200);
        times.push(before.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    println!(
        "scrape of 1,000 services: {:.1} ms, {:.1} to {:.1}; main thread in all {:.0} ms",
        times[2],
        times[0],
        times[4],
        processor_time(&scene)?
    );
    Ok(())
}
