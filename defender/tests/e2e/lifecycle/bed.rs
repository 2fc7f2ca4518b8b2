//! Servers behind a defender in mode `always`, with connections that must survive.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use defender::state::directory::escape;
use defender_testbed::{
    controller::Controller,
    server::Server,
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::harness::{connect, eventually, run, start_always, talk};

/// A server of each family behind a defender in mode `always`, with a connection through each.
pub(crate) struct Scene<'a> {
    pub(crate) bed: &'a Topology,
    pub(crate) defender: Controller<'a>,
    alive: Vec<TcpStream>,
    _servers: [Server; 2],
}

impl<'a> Scene<'a> {
    pub(crate) fn new(bed: &'a Topology) -> Result<Self> {
        Self::with(bed, |bed| start_always(bed, &[80]))
    }

    /// The same with a defender of one's own.
    pub(crate) fn with(
        bed: &'a Topology,
        start: impl FnOnce(&'a Topology) -> Result<Controller<'a>>,
    ) -> Result<Self> {
        let [v4, v6] = addresses(bed);
        let servers = [Server::start(&bed.server, v4)?, Server::start(&bed.server, v6)?];
        let defender = start(bed)?;
        let mut scene = Self { bed, defender, alive: Vec::new(), _servers: servers };
        scene.alive = scene.visit()?;
        Ok(scene)
    }

    /// Connects once to each server.
    pub(crate) fn visit(&self) -> Result<Vec<TcpStream>> {
        let visit = |to| connect(self.bed, self.bed.fresh_client(to), to);
        addresses(self.bed).into_iter().map(visit).collect()
    }

    /// The connections from the beginning are alive, and new clients get in.
    pub(crate) fn require_service(&mut self) -> Result<()> {
        self.alive.iter_mut().try_for_each(talk).context("a connection from before")?;
        self.visit().map(drop).context("a new client")
    }

    pub(crate) fn pins(&self) -> &Path {
        self.defender.pin_root()
    }

    /// Runs a command; its exit status, and what it printed, errors first.
    pub(crate) fn tell(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = run(self.bed, self.pins(), arguments)?;
        let told = [output.stderr, output.stdout].concat();
        Ok((output.status.code().context("killed")?, String::from_utf8_lossy(&told).into_owned()))
    }

    /// `status --json`, whatever its exit status.
    pub(crate) fn status(&self) -> Result<Value> {
        self.defender.status()
    }

    /// Whether an XDP program is attached.
    pub(crate) fn has_xdp(&self) -> Result<bool> {
        let link = self.bed.server.ip(&format!("-details link show dev {SERVER_INTERFACE}"))?;
        Ok(link.contains("xdp"))
    }

    /// Nothing is attached, nothing pinned, and the controller ends by itself without complaint.
    pub(crate) fn require_gone(&mut self) -> Result<()> {
        ensure!(!self.has_xdp()?, "XDP is attached");
        eventually("the controller ends", || Ok(self.is_over()))?;
        ensure!(self.defender.stop()?.code() == Some(0), "it complained");
        ensure!(!self.pins().exists(), "there are pins");
        self.require_service()
    }

    /// The controller has ended by itself.
    fn is_over(&self) -> bool {
        !Path::new("/proc").join(self.defender.id().to_string()).join("exe").exists()
    }
}

pub(crate) fn addresses(bed: &Topology) -> [SocketAddr; 2] {
    [bed.server_v4(80), bed.server_v6(80)]
}

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Where the state of this pin root is.
pub(crate) fn state_directory(pins: &Path) -> PathBuf {
    Path::new("/run/defender").join(escape(&pins.to_string_lossy()))
}
