//! The controller of the defender as a child process inside a namespace.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{self, Child, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    cleanup::{self, BPF_DIR, Guard, PREFIX},
    netns::Namespace,
};

/// Deadline for the controller's first answer, for finding a listener, and for ending. Generous: the machine may be slow and
/// busy.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A controller that was started; dropping it ends it and removes what it pinned.
#[derive(Debug)]
pub struct Controller<'a> {
    namespace: &'a Namespace,
    program: PathBuf,
    pins: PathBuf,
    child: Arc<Mutex<Child>>,
    _end: Guard,
}

impl<'a> Controller<'a> {
    /// Starts `PROGRAM run --iface INTERFACE --pin-root …` with more arguments, and waits until it answers.
    pub fn start(
        namespace: &'a Namespace,
        program: &Path,
        interface: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::start_at(namespace, program, interface, arguments, fresh_pin_root())
    }

    /// Like [`start`](Self::start), with a pin root that may be in use.
    pub fn start_at(
        namespace: &'a Namespace,
        program: &Path,
        interface: &str,
        arguments: &[&str],
        pins: PathBuf,
    ) -> Result<Self> {
        Self::start_in(namespace, program, interface, arguments, pins, &[])
    }

    /// The same, with more in its environment.
    pub fn start_in(
        namespace: &'a Namespace,
        program: &Path,
        interface: &str,
        arguments: &[&str],
        pins: PathBuf,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
        let mut command = namespace.command(&program)?;
        // Tests must not depend on from where they are started.
        command
            .args(["run", "--no-allow-ssh", "--iface", interface, "--pin-root"])
            .arg(&pins)
            .args(arguments);
        command.env(STATE_DIRECTORY, state_directory(&pins)).envs(environment.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let child = Arc::new(Mutex::new(child));
        let end = {
            let (child, pins) = (Arc::clone(&child), pins.clone());
            Guard::new(move || {
                end(&child);
                cleanup::remove_pins(&pins);
                let _ = fs::remove_dir_all(state_directory(&pins));
            })
        };
        let controller = Self { namespace, program, pins, child, _end: end };
        controller.wait_ready().context("the defender does not start")?;
        Ok(controller)
    }

    /// Where it pins.
    pub fn pin_root(&self) -> &Path {
        &self.pins
    }

    /// Where it keeps this file for the next one.
    ///
    /// # Errors
    /// It has kept nothing yet.
    pub fn kept(&self, file: &str) -> Result<PathBuf> {
        let kept = state_directory(&self.pins);
        let entry = || fs::read_dir(&kept)?.next().ok_or(io::ErrorKind::NotFound)?;
        let directory = entry().with_context(|| format!("nothing is kept in {}", kept.display()))?;
        Ok(directory.path().join(file))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Runs another command of the program with the same pin root, and returns what it printed.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed: {}", arguments.join(" "), complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&self.program)?;
        command.env(STATE_DIRECTORY, state_directory(&self.pins));
        Ok(command.args(arguments).arg("--pin-root").arg(&self.pins).output()?)
    }

    /// What `status --json` shows, whether or not all is well.
    pub fn status(&self) -> Result<Value> {
        let output = self.output(&["status", "--json"])?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).with_context(|| format!("the status is not JSON: {complaint}"))
    }

    /// What `stats --json` shows.
    pub fn statistics(&self) -> Result<Value> {
        let text = self.ask(&["stats", "--json"])?;
        serde_json::from_str(&text).context("the defender's statistics are not JSON")
    }

    /// One of the counters that `stats --json` shows.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let value = self.statistics()?["counters"][name].as_u64();
        value.with_context(|| format!("the defender has no counter {name}"))
    }

    /// Waits until it answers.
    fn wait_ready(&self) -> Result<()> {
        let ready = wait(|| {
            if let Some(status) = lock(&self.child).try_wait()? {
                bail!("it ended: {status}");
            }
            Ok(self.statistics().ok())
        });
        ready.map(drop)
    }

    /// Waits until it knows the listener on this port.
    pub fn wait_for_listener(&self, port: u16) -> Result<()> {
        wait(|| Ok(self.knows(port).then_some(()))).context("the defender does not find the listener")
    }

    /// Tells it to end as SIGTERM does, and waits.
    pub fn stop(&self) -> Result<ExitStatus> {
        end(&self.child);
        Ok(lock(&self.child).wait()?)
    }

    /// Kills it with SIGKILL: it cannot tidy up. What it pinned stays until this is dropped.
    pub fn kill(&self) -> Result<()> {
        let mut child = lock(&self.child);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn knows(&self, port: u16) -> bool {
        let Ok(statistics) = self.statistics() else { return false };
        let services = statistics.get("services").and_then(Value::as_array);
        services.is_some_and(|services| services.iter().any(|service| service["port"] == port))
    }
}

/// A directory on the BPF file system that no other controller uses, and that is swept up if this process dies.
pub fn fresh_pin_root() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(BPF_DIR).join(format!("{PREFIX}{}-{number}", process::id()))
}

/// What tells the defender where to keep what survives it.
pub const STATE_DIRECTORY: &str = "DEFENDER_STATE_DIR";

/// Where a defender of a test keeps what survives it: a directory that goes away with its pin root.
pub fn state_directory(pins: &Path) -> PathBuf {
    env::temp_dir().join(pins.file_name().unwrap_or_default())
}

/// Tells it to end, waits, and does not wait for ever.
fn end(child: &Mutex<Child>) {
    let mut child = lock(child);
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    }
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        thread::sleep(POLL);
    }
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
