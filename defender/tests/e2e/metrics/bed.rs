//! A defender that serves metrics, and its pages.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::Controller,
    http::{self, Answer},
    server::Server,
    topology::{Options, Topology},
};

use crate::harness::{eventually, process::Scratch, start};

/// Where metrics are served, inside the server's namespace.
pub(crate) const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9815);

/// The service's port.
pub(crate) const PORT: u16 = 80;

/// Real checksums: what the hardware is to fill in says nothing.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options { checksum_offload: false, ..Options::default() })
}

/// A server that greets.
pub(crate) fn serve(bed: &Topology, address: SocketAddr) -> Result<Server> {
    Server::start(&bed.server, address)
}

/// A defender whose configuration file can be changed.
pub(crate) struct Scene<'a> {
    bed: &'a Topology,
    pub(crate) scratch: Scratch,
    pub(crate) defender: Controller<'a>,
}

impl<'a> Scene<'a> {
    /// Starts it with metrics at [`METRICS`], and waits until they are served.
    pub(crate) fn new(bed: &'a Topology, mode: &str) -> Result<Self> {
        let scene = Self::with(bed, mode, &listen(&METRICS.to_string()))?;
        scene.wait_served()?;
        Ok(scene)
    }

    /// Starts it with this configuration file.
    pub(crate) fn with(bed: &'a Topology, mode: &str, configuration: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let path = scratch.write("config.toml", configuration)?;
        let path = path.to_str().context("a path")?;
        let defender = start(bed, &["--mode", mode, "--config", path])?;
        Ok(Self { bed, scratch, defender })
    }

    /// Changes the configuration file and has it read.
    pub(crate) fn reload(&self, configuration: &str) -> Result<()> {
        self.scratch.write("config.toml", configuration)?;
        let id = nix::unistd::Pid::from_raw(self.defender.id() as i32);
        Ok(nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGHUP)?)
    }

    pub(crate) fn wait_served(&self) -> Result<()> {
        eventually("metrics are served", || Ok(self.get("/healthz").is_ok_and(|answer| answer.status == 200)))
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        http::get(&self.bed.server, METRICS, path, "")
    }

    /// All series of a scrape.
    pub(crate) fn scrape(&self) -> Result<Scraped> {
        let answer = self.get("/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        Scraped::parse(&answer.body)
    }
}

/// A configuration file that has metrics served there.
pub(crate) fn listen(place: &str) -> String {
    format!("[metrics]\nlisten = \"{place}\"\n")
}

/// What a page of metrics says: name and labels, and the value.
#[derive(Debug)]
pub(crate) struct Scraped(pub(crate) BTreeMap<String, f64>);

impl Scraped {
    pub(crate) fn parse(page: &str) -> Result<Self> {
        let mut series = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no series: {line}"))?;
            let is_new = series.insert(name.to_owned(), value.parse().context(line.to_owned())?).is_none();
            ensure!(is_new, "{name} twice");
        }
        Ok(Self(series))
    }

    /// One series. An unknown name fails the test.
    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("there is no series {series}"))
    }
}
