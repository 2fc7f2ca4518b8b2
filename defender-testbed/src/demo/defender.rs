//! The controller as a child process inside the server's namespace.

use std::{
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_testbed::{
    cleanup::{self, BPF_DIR, Guard, PREFIX},
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// How long the controller may take to answer for the first time, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A running controller; dropping it ends it.
pub(super) struct Defender {
    program: PathBuf,
    pins: PathBuf,
    _end: Guard,
}

impl Defender {
    /// Starts it and waits until it answers.
    pub(super) fn start(bed: &Topology, program: &Path) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
        let pins = Path::new(BPF_DIR).join(format!("{PREFIX}{}", process::id()));
        let mut command = bed.server.command(&program)?;
        command.args(["run", "--iface", SERVER_INTERFACE, "--mode", "always", "--pin-root"]).arg(&pins);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let child = Arc::new(Mutex::new(child));
        let end = {
            let (child, pins) = (Arc::clone(&child), pins.clone());
            Guard::new(move || end(&child, &pins))
        };
        let defender = Self { program, pins, _end: end };
        defender.wait_ready(&child)?;
        Ok(defender)
    }

    /// Its counters, as `stats --json` shows them.
    pub(super) fn statistics(&self) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(["stats", "--json", "--pin-root"])
            .arg(&self.pins)
            .output()
            .context("cannot ask the defender")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("the defender's statistics are not JSON")
    }

    /// Waits until it knows the listener on this port.
    pub(super) fn wait_for_listener(&self, port: u16) -> Result<()> {
        wait(|| Ok(self.knows(port).then_some(()))).context("the defender does not find the listener")
    }

    fn knows(&self, port: u16) -> bool {
        let Ok(statistics) = self.statistics() else { return false };
        let services = statistics.get("services").and_then(Value::as_array);
        services.is_some_and(|services| services.iter().any(|service| service["port"] == port))
    }

    fn wait_ready(&self, child: &Mutex<Child>) -> Result<()> {
        let ready = wait(|| {
            if let Some(status) = lock(child).try_wait()? {
                bail!("it ended: {status}");
            }
            Ok(self.statistics().ok())
        });
        ready.map(drop).context("the defender does not start")
    }
}

/// Tells it to end, waits, and does not wait for ever.
fn end(child: &Mutex<Child>, pins: &Path) {
    let mut child = lock(child);
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        thread::sleep(POLL);
    }
    cleanup::remove_pins(pins);
}

fn wait<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited {} s", PATIENCE.as_secs());
        thread::sleep(POLL);
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}
