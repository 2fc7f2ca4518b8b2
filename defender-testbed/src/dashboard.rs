//! What the panels of a Grafana dashboard show of a flood: their own expressions, asked of a real Prometheus.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    cleanup::Guard,
    client::Load,
    controller::Controller,
    flood::{Flood, Kind},
    prometheus::{Prometheus, Series},
    server::{self, Server},
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::panels::{self, Panel};

/// Where defender serves metrics, inside the server's namespace.
const METRICS: &str = "127.0.0.1:9815";
const PORT: u16 = 80;
const BACKLOG: u32 = 512;
/// Clients connect for all this time, and are flooded between two moments of it.
const SECONDS: f64 = 60.0;
const FLOODED: (f64, f64) = (15.0, 40.0);
const CLIENTS: f64 = 50.0;
const SYNS: u64 = 20_000;
/// Prometheus needs a few samples before there are rates.
const WARM_UP: Duration = Duration::from_secs(6);
/// What dashboards leave to be filled in.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "5s"), ("$instance", ".*"), ("$service", ".*")];

/// What the panels show.
pub(crate) struct Scraped {
    pub(crate) panels: Vec<Panel>,
}

impl Scraped {
    /// The picture.
    pub(crate) fn draw(&self) -> String {
        let title = format!(
            "A server with a backlog of {BACKLOG}, {CLIENTS} clients a second, and a flood of {SYNS} SYNs a second (shaded)"
        );
        panels::draw(&title, &self.panels, SECONDS, FLOODED)
    }
}

/// Floods a defended server, and asks for each panel of the dashboard.
pub(crate) fn scrape(program: &Path, dashboard: &Path, rules: &Path) -> Result<Scraped> {
    let wanted = read(dashboard)?;
    let bed = Topology::new()?;
    // What is averted is forgotten after four seconds: the end of the attack is to be seen.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 1)?;
    let address = bed.server_v4(PORT);
    let options = server::Options { backlog: BACKLOG, ..server::Options::default() };
    let _server = Server::with(&bed.server, address, options)?;
    let (configuration, _remove) = configuration()?;
    let configuration = configuration.to_str().context("no path")?;
    let defender = Controller::start(
        &bed.server,
        program,
        SERVER_INTERFACE,
        &["--mode", "auto", "--config", configuration],
    )?;
    defender.wait_for_listener(PORT)?;
    let prometheus = Prometheus::start(&bed.server, METRICS.parse()?, rules)?;
    let load = Load { deadline: Duration::from_secs(5), ..Load::new(&bed, address) };
    let load = load.with(&bed, CLIENTS, WARM_UP + Duration::from_secs_f64(SECONDS));
    thread::scope(|scope| {
        let clients = scope.spawn(|| load.run(&bed.client));
        thread::sleep(WARM_UP);
        let began = now()?;
        thread::sleep(Duration::from_secs_f64(FLOODED.0));
        flood(address).run_to_end(&bed)?;
        thread::sleep(Duration::from_secs_f64((began + SECONDS - now()?).max(0.0)));
        let panels = wanted.iter().map(|panel| panel.ask(&prometheus, began)).collect::<Result<_>>()?;
        let report = clients.join().expect("no panic")?;
        eprintln!("{:.1} % of {} clients got in", report.success() * 100.0, report.clients.len());
        Ok(Scraped { panels })
    })
}

fn flood(address: std::net::SocketAddr) -> Flood {
    let time = FLOODED.1 - FLOODED.0;
    Flood {
        rate: Some(SYNS),
        max_time: Duration::from_secs_f64(time),
        max_packets: SYNS * time as u64,
        ..Flood::new(Kind::LinuxSyn, address)
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}

/// A configuration file with metrics, which goes away.
fn configuration() -> Result<(PathBuf, Guard)> {
    let path = env::temp_dir().join(format!("defender-dashboard-{}.toml", process::id()));
    fs::write(&path, format!("[metrics]\nlisten = \"{METRICS}\"\n"))?;
    let left = path.clone();
    Ok((path, Guard::new(move || drop(fs::remove_file(left)))))
}

/// A panel with lines, as the dashboard describes it.
struct Wanted {
    title: String,
    /// Expression and legend of each target.
    targets: Vec<(String, String)>,
}

fn read(dashboard: &Path) -> Result<Vec<Wanted>> {
    let text =
        fs::read_to_string(dashboard).with_context(|| format!("cannot read {}", dashboard.display()))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    panels.iter().filter(|panel| panel["type"] == "timeseries").map(Wanted::of).collect()
}

impl Wanted {
    fn of(panel: &Value) -> Result<Self> {
        let text =
            |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no text: {value}"));
        let targets = panel["targets"].as_array().context("no targets")?;
        let target = |target: &Value| {
            let expression = VARIABLES
                .iter()
                .fold(text(&target["expr"])?, |text, (name, value)| text.replace(name, value));
            Ok((expression, text(&target["legendFormat"])?))
        };
        Ok(Self {
            title: text(&panel["title"])?,
            targets: targets.iter().map(target).collect::<Result<_>>()?,
        })
    }

    /// What Prometheus has for it since then.
    fn ask(&self, prometheus: &Prometheus<'_>, began: f64) -> Result<Panel> {
        let mut series = Vec::new();
        for (expression, legend) in &self.targets {
            for found in prometheus.range(expression, began, began + SECONDS)? {
                let points = found.points.iter().map(|(at, value)| (at - began, *value)).collect();
                series.push((named(legend, &found), points));
            }
        }
        ensure!(!series.is_empty(), "{}: nothing for {:?}", self.title, self.targets);
        Ok(Panel { title: self.title.clone(), series })
    }
}

/// A legend with the labels of a series filled in.
fn named(legend: &str, series: &Series) -> String {
    let labels = series.labels.as_object().into_iter().flatten();
    labels.fold(legend.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default())
    })
}
