//! What a defender in mode `auto` knows that has stood there for a while: what is usual in calm.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client::Load,
    controller::{Controller, state_directory},
    server::{self, Server},
    topology::{SERVER_INTERFACE, Topology},
};

use super::{Plan, measure::PORT};

const ARGUMENTS: [&str; 2] = ["--mode", "auto"];

/// The file that a defender has left, and where it pinned: there it looks for that.
pub(super) struct Learnt {
    pins: PathBuf,
    path: PathBuf,
    file: Vec<u8>,
}

impl Learnt {
    /// Lets clients come for so long.
    pub(super) fn in_calm(bed: &Topology, plan: &Plan, duration: Duration) -> Result<Self> {
        let program = plan.defender.as_deref().context("no defender to start")?;
        let server = Server::with(&bed.server, bed.server_v4(PORT), server::Options::default())?;
        let controller = Controller::start(&bed.server, program, SERVER_INTERFACE, &ARGUMENTS)?;
        controller.wait_for_listener(PORT)?;
        Load::new(bed, server.address()).with(bed, plan.clients, duration).run(&bed.client)?;
        ensure!(controller.stop()?.success(), "the defender does not end");
        let pins = controller.pin_root().to_owned();
        let kept = state_directory(&pins);
        let read = || -> io::Result<_> {
            let directory = fs::read_dir(&kept)?.next().ok_or(io::ErrorKind::NotFound)??.path();
            let path = directory.join("baselines.json");
            Ok((fs::read(&path)?, path))
        };
        let (file, path) =
            read().with_context(|| format!("the defender left nothing in {}", kept.display()))?;
        Ok(Self { pins, path, file })
    }

    /// Starts a defender that knows this.
    pub(super) fn start<'a>(&self, bed: &'a Topology, program: &Path) -> Result<Controller<'a>> {
        let directory = self.path.parent().context("a file is in a directory")?;
        fs::create_dir_all(directory)?;
        fs::write(&self.path, &self.file)?;
        let pins = self.pins.clone();
        let controller = Controller::start_at(&bed.server, program, SERVER_INTERFACE, &ARGUMENTS, pins)?;
        controller.wait_ready()?;
        Ok(controller)
    }
}
