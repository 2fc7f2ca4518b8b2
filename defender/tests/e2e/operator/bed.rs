//! A defender as an operator starts it: with other descriptors, another environment, another user.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::{STATE_DIRECTORY, fresh_pin_root, state_directory},
    server::{self, Server},
    topology::{Options, SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{
    PATIENCE, PROGRAM, eventually, run,
    scripted_client::{ClientKind, ScriptedClient, Wire},
};

/// The service's port.
pub(crate) const PORT: u16 = 80;

const POLL: Duration = Duration::from_millis(10);

/// Real checksums: what the hardware is to fill in says nothing.
pub(crate) fn topology() -> Result<Topology> {
    Topology::with(&Options { checksum_offload: false, ..Options::default() })
}

/// A server that greets, with a short queue.
pub(crate) fn serve(bed: &Topology, address: SocketAddr) -> Result<Server> {
    Server::with(&bed.server, address, server::Options { backlog: 128, ..server::Options::default() })
}

/// More SYNs than such a queue has room for.
pub(crate) fn attack(wire: &Wire<'_>, address: SocketAddr) -> Result<()> {
    for _ in 0..4 {
        let clients: Result<Vec<_>> = (0..50).map(|_| wire.client(address, ClientKind::Linux)).collect();
        wire.send(&clients?.iter().map(ScriptedClient::syn).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// `defender run` that is started by hand; dropping it ends it and removes what it has pinned.
pub(crate) struct Running<'a> {
    bed: &'a Topology,
    pub(crate) pins: PathBuf,
    child: Child,
}

impl<'a> Running<'a> {
    /// Starts it with more arguments, and what `prepare` makes of the command. It need not answer yet.
    pub(crate) fn spawn(
        bed: &'a Topology,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let pins = fresh_pin_root();
        let mut command = run_command(bed, arguments, &pins)?;
        prepare(&mut command);
        Self::of(bed, command, pins)
    }

    /// Starts a command that pins there.
    pub(crate) fn of(bed: &'a Topology, mut command: Command, pins: PathBuf) -> Result<Self> {
        let child = command.spawn().context("cannot start the defender")?;
        Ok(Self { bed, pins, child })
    }

    /// The same, and waits until it answers.
    pub(crate) fn start(
        bed: &'a Topology,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mut running = Self::spawn(bed, arguments, prepare)?;
        running.wait_ready()?;
        Ok(running)
    }

    /// Kills it and starts another one in its place.
    pub(crate) fn again(&mut self, arguments: &[&str]) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = run_command(self.bed, arguments, &self.pins)?.spawn()?;
        Ok(())
    }

    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        eventually("it is in control", || {
            ensure!(self.is_alive()?, "it has ended");
            Ok(self.ask(&["status"])?.status.success()
                && self.status()?["interfaces"][0]["xdp_mode"] != "none")
        })
    }

    /// Waits until it knows the listener on this port.
    pub(crate) fn wait_for_listener(&self, port: u16) -> Result<()> {
        eventually("the listener is found", || Ok(!self.services(port)?.is_empty()))
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub(crate) fn send(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.id(), signal)?)
    }

    pub(crate) fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Runs another command of the program with the same pin root.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Output> {
        run(self.bed, &self.pins, arguments)
    }

    /// The same command to be run in other ways.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.bed.server.command(PROGRAM)?;
        command.args(arguments).arg("--pin-root").arg(&self.pins);
        command.env(STATE_DIRECTORY, state_directory(&self.pins)).stdin(Stdio::null());
        Ok(command)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let output = succeeded(&self.ask(&["status", "--json"])?)?;
        serde_json::from_str(&output).context("the status is no JSON")
    }

    pub(crate) fn services(&self, port: u16) -> Result<Vec<Value>> {
        let status = self.status()?;
        let services = status["services"].as_array().context("no services")?;
        Ok(services.iter().filter(|service| service["port"] == port).cloned().collect())
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
        let text = succeeded(&self.ask(&["events", "--json"])?)?;
        text.lines().map(|line| serde_json::from_str(line).context("an event is no JSON")).collect()
    }

    /// Sends SIGTERM, and waits.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        let _ = self.send(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        wait(&mut self.child, PATIENCE)
    }
}

fn run_command(bed: &Topology, arguments: &[&str], pins: &Path) -> Result<Command> {
    let mut command = bed.server.command(PROGRAM)?;
    command.args(["run", "--no-allow-ssh", "--iface", SERVER_INTERFACE, "--pin-root"]).arg(pins);
    command.args(arguments).env(STATE_DIRECTORY, state_directory(pins));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(command)
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir_all(state_directory(&self.pins));
    }
}

/// Waits for the end of a child; kills it if that takes too long.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("it does not end within {} s", patience.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Runs a command that may hang, and returns what it printed: not more than pipes hold.
pub(crate) fn output(mut command: Command, patience: Duration) -> Result<Output> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait(&mut child, patience)?;
    Ok(child.wait_with_output()?)
}

/// What a command that has succeeded printed.
pub(crate) fn succeeded(output: &Output) -> Result<String> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The search path with a directory before it.
pub(crate) fn path_with(directory: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = [directory.to_owned()].into_iter().chain(env::split_paths(&path));
    Ok(env::join_paths(all)?)
}
