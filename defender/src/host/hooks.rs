//! Runs the operator's program for each event, in a thread of its own: whoever has an event to tell never waits.
//!
//! One at a time, in the order of events. A program that takes too long is killed, with its process group.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{AccessFlags, access},
};

use super::{service_manager, tool};
use crate::model::hooks::{Hook, HookCounts};

/// What the operator should know where the program cannot be run. The first attack is too late to find out.
pub fn warning(hook: &Hook) -> Option<String> {
    let error = access(hook.program(), AccessFlags::X_OK).err()?;
    Some(format!("hooks: {} cannot be run: {}", hook.program(), error.desc()))
}

/// Events that may wait for those before them.
const QUEUE: usize = 64;
/// How often to check whether a program has ended.
const STEP: Duration = Duration::from_millis(20);

/// An event, and what is to be run for it.
struct Job {
    hook: Hook,
    event: String,
}

/// What both threads know.
#[derive(Debug, Default)]
struct Shared {
    counts: HookCounts,
    /// No program runs after that.
    end: Option<Instant>,
    /// The last event was dropped, which is a message already.
    is_full: bool,
}

impl Shared {
    fn of(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of events, and the thread that runs a program for each.
#[derive(Debug, Default)]
pub struct HookRunner {
    shared: Arc<Mutex<Shared>>,
    worker: Mutex<Option<(SyncSender<Job>, JoinHandle<()>)>>,
}

impl HookRunner {
    /// Has `hook` run for an event. If too many wait already, the event is dropped and counted.
    pub fn offer(&self, hook: &Hook, event: String) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = self.start();
        }
        let job = Job { hook: hook.clone(), event };
        let queued = worker.as_ref().map(|(sender, _)| sender.try_send(job));
        let mut shared = Shared::of(&self.shared);
        match queued {
            Some(Ok(())) => shared.is_full = false,
            Some(Err(TrySendError::Full(_))) => {
                shared.counts.dropped += 1;
                if !std::mem::replace(&mut shared.is_full, true) {
                    log::warn!("hook {}: {QUEUE} events wait for it; dropping further ones", hook.program());
                }
            }
            None | Some(Err(TrySendError::Disconnected(_))) => shared.counts.failed += 1,
        }
    }

    /// What became of the events so far.
    pub fn counts(&self) -> HookCounts {
        Shared::of(&self.shared).counts
    }

    /// Takes no more events, and gives those that wait this time. What runs then is killed, and the rest is dropped.
    pub fn finish(&self, patience: Duration) {
        let Some((sender, worker)) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let before = self.counts();
        Shared::of(&self.shared).end = Some(Instant::now() + patience);
        drop(sender);
        if worker.join().is_err() {
            log::warn!("the thread that runs hooks has failed");
        }
        let dropped = self.counts().dropped - before.dropped;
        if dropped != 0 {
            log::warn!("{dropped} events were dropped: hooks did not end within {} s", patience.as_secs());
        }
    }

    fn start(&self) -> Option<(SyncSender<Job>, JoinHandle<()>)> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let shared = Arc::clone(&self.shared);
        let worker =
            thread::Builder::new().name("hooks".to_owned()).spawn(move || run_all(&receiver, &shared));
        worker
            .inspect_err(|error| log::warn!("cannot run hooks: {error}"))
            .ok()
            .map(|worker| (sender, worker))
    }
}

fn run_all(jobs: &Receiver<Job>, shared: &Mutex<Shared>) {
    for job in jobs {
        if Shared::of(shared).end.is_some_and(|end| end <= Instant::now()) {
            Shared::of(shared).counts.dropped += 1;
            continue;
        }
        let outcome = run(&job, shared);
        let program = job.hook.program();
        let mut shared = Shared::of(shared);
        match outcome {
            Ok(Some(status)) if status.success() => shared.counts.succeeded += 1,
            Ok(Some(status)) => {
                shared.counts.failed += 1;
                log::warn!("hook {program}: {}", tool::ended(status));
            }
            Ok(None) => {
                shared.counts.timed_out += 1;
                log::warn!("hook {program}: took too long; killed, with its process group");
            }
            Err(error) => {
                shared.counts.failed += 1;
                log::warn!("hook {program}: cannot be started: {error}");
            }
        }
    }
}

/// Runs one; `None` if it took too long and was killed.
fn run(job: &Job, shared: &Mutex<Shared>) -> io::Result<Option<ExitStatus>> {
    let mut child = command(job)?.spawn()?;
    let deadline = Instant::now() + job.hook.timeout;
    let is_late = || {
        let now = Instant::now();
        now >= deadline || Shared::of(shared).end.is_some_and(|end| now >= end)
    };
    let status = wait(&mut child, is_late)?;
    if status.is_none() {
        tool::kill(&mut child);
    }
    Ok(status)
}

fn command(job: &Job) -> io::Result<Command> {
    let mut command = Command::new(job.hook.program());
    command.args(job.hook.command.iter().skip(1)).process_group(0).stdin(input(&job.event)?);
    // What it prints goes where the controller's messages go.
    let errors = io::stderr().as_fd().try_clone_to_owned();
    command.stdout(errors.map_or_else(|_| Stdio::null(), Stdio::from));
    for variable in service_manager::VARIABLES {
        command.env_remove(variable);
    }
    Ok(command)
}

/// A file in memory: unlike a pipe, it takes everything from whoever writes, whether or not anyone reads.
fn input(event: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("event", MFdFlags::MFD_CLOEXEC)?);
    writeln!(file, "{event}")?;
    file.rewind()?;
    Ok(file)
}

fn wait(child: &mut Child, is_late: impl Fn() -> bool) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if is_late() {
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf, process};

    use super::*;

    fn sh(script: &str, timeout: Duration) -> Hook {
        Hook { command: ["/bin/sh", "-c", script].map(str::to_owned).into(), timeout }
    }

    fn scratch(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("defender-hooks-{name}-{}", process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    /// Whether a process with this word on its command line is there.
    fn is_there(word: &str) -> bool {
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let mut lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
        lines.any(|line| String::from_utf8_lossy(&line).contains(word))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn events_come_in_order_and_what_becomes_of_them_is_counted() {
        let path = scratch("order");
        let hooks = HookRunner::default();
        let append = sh(&format!("cat >> {}", path.display()), LONG);
        for number in 0..5 {
            hooks.offer(&append, format!("{{\"number\":{number}}}"));
        }
        hooks.offer(&sh("exit 3", LONG), String::new());
        let missing = Hook { command: vec!["/no/such/program".to_owned()], timeout: LONG };
        hooks.offer(&missing, String::new());
        hooks.finish(LONG);
        let expected: String = (0..5).map(|number| format!("{{\"number\":{number}}}\n")).collect();
        assert_eq!(fs::read_to_string(&path).expect("a file"), expected);
        assert_eq!(hooks.counts(), HookCounts { succeeded: 5, failed: 2, ..HookCounts::default() });
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn one_that_never_ends_is_killed_with_its_group_and_nobody_waits() {
        let hooks = HookRunner::default();
        let seconds = format!("2{:06}", process::id());
        let hanging = sh(&format!("trap '' TERM; sleep {seconds} & sleep {seconds}"), Duration::from_secs(2));
        let began = Instant::now();
        // Never read, and larger than a pipe.
        hooks.offer(&hanging, "x".repeat(1 << 20));
        for _ in 0..QUEUE + 9 {
            hooks.offer(&sh("exit 0", LONG), String::new());
        }
        assert!(began.elapsed() < Duration::from_secs(1), "offering waits");
        let dropped = hooks.counts().dropped;
        // The first may or may not have left the queue by then.
        assert!((9..=10).contains(&dropped), "{dropped}");
        hooks.finish(LONG);
        let expected = HookCounts { succeeded: QUEUE as u64 + 9 - dropped, failed: 0, timed_out: 1, dropped };
        assert_eq!(hooks.counts(), expected);
        assert!(!is_there(&seconds));
    }

    #[test]
    fn the_end_kills_what_runs_and_drops_the_rest() {
        let hooks = HookRunner::default();
        let seconds = format!("3{:06}", process::id());
        for _ in 0..3 {
            hooks.offer(&sh(&format!("sleep {seconds}"), LONG), String::new());
        }
        hooks.finish(Duration::from_millis(300));
        assert_eq!(hooks.counts(), HookCounts { timed_out: 1, dropped: 2, ..HookCounts::default() });
        assert!(!is_there(&seconds));
    }
}
