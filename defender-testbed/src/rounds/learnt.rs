//! The baseline that a long-running defender in mode `auto` has learnt from normal traffic.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client::Load,
    controller::Controller,
    server::{self, Server},
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use super::{RoundsPlan, measure::PORT};

const ARGUMENTS: [&str; 2] = ["--mode", "auto"];
/// Minimum success of clients for traffic to count as normal.
const LEAST: f64 = 0.99;

/// A defender's saved file, and its pin path, by which the defender finds the file.
pub(super) struct Learnt {
    pins: PathBuf,
    path: PathBuf,
    file: Vec<u8>,
}

impl Learnt {
    /// Learns from clients for this long.
    pub(super) fn without_flood(bed: &Topology, plan: &RoundsPlan, duration: Duration) -> Result<Self> {
        let program = plan.defender.as_deref().context("no defender to start")?;
        let server = Server::with(&bed.server, bed.server_v4(PORT), server::Options::default())?;
        let controller = Controller::start(&bed.server, program, SERVER_INTERFACE, &ARGUMENTS)?;
        controller.wait_for_listener(PORT)?;
        let clients = Load::new(bed, server.address()).with(bed, plan.clients, duration).run(&bed.client)?;
        ensure!(clients.success() > LEAST, "only {:.1} % of clients got through", clients.success() * 100.0);
        let lines = controller.ask(&["explain", &PORT.to_string(), "--json"])?;
        let lines: Value = serde_json::from_str(&lines).context("`explain` prints no JSON")?;
        let usual = &lines["services"][0]["inputs"]["syn_rate_p99"];
        ensure!(
            usual.is_u64(),
            "the defender learned nothing in {duration:?} without a flood: its baseline is {usual} SYNs a second"
        );
        ensure!(controller.stop()?.success(), "the defender does not end");
        let path = controller.kept("baselines.json")?;
        let file = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { pins: controller.pin_root().to_owned(), path, file })
    }

    /// Starts a defender with this baseline.
    pub(super) fn start<'a>(&self, bed: &'a Topology, program: &Path) -> Result<Controller<'a>> {
        let directory = self.path.parent().context("a file is in a directory")?;
        fs::create_dir_all(directory)?;
        fs::write(&self.path, &self.file)?;
        Controller::start_at(&bed.server, program, SERVER_INTERFACE, &ARGUMENTS, self.pins.clone())
    }
}
