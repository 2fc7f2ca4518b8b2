//! Network namespaces: made, entered, and removed on drop.
//!
//! They are named (`dfnd-<pid>-<n>-<role>`) as `ip netns` does it, so that one can look into them while a test runs.
//! Entering changes the network namespace of one thread and nothing else; `/sys/fs/bpf` stays what it is.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _, unix::process::CommandExt as _},
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::{
    cleanup::{self, Guard, NETNS_DIR, PREFIX},
    command,
};

/// Namespaces that this process made, by device and inode.
static MADE: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// A network namespace of our own. Dropping it deletes it and with it every interface inside.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    _delete: Guard,
}

impl Namespace {
    /// Makes a namespace with `lo` up; `role` is a word for people ("client").
    pub fn new(role: &str) -> Result<Self> {
        let namespace =
            Self::named(role, &["add"], &[]).context("cannot make a network namespace; are you root?")?;
        made().insert(identity(namespace.path())?);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace that a process lives in, such as a container's first one. Nothing may flood from it. Dropping it
    /// deletes the name only.
    pub fn of_process(role: &str, pid: u32) -> Result<Self> {
        let its_own = identity(format!("/proc/{pid}/ns/net"))? != identity("/proc/self/ns/net")?;
        ensure!(its_own, "process {pid} has no network namespace of its own");
        Self::named(role, &["attach"], &[&pid.to_string()])
            .with_context(|| format!("cannot name the network namespace of process {pid}"))
    }

    /// Has `ip netns` give a new name to a namespace.
    fn named(role: &str, command: &[&str], behind_name: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", process::id());
        cleanup::prepare();
        command::run("ip", &[&["netns"], command, &[name.as_str()], behind_name].concat())?;
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path)?;
        let identity = identity(&path)?;
        let delete = {
            let name = name.clone();
            Guard::new(move || {
                // Its number may be given to another one, which is not ours.
                made().remove(&identity);
                cleanup::delete_netns(&name);
            })
        };
        Ok(Self { name, file, _delete: delete })
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Runs `job` inside, in a thread of its own, and waits for it. A panic goes on in the caller.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            self.enter()?;
            job()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Starts `job` inside, in a thread of its own that carries `name`.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.file.try_clone()?;
        let inside = move || {
            enter(&file)?;
            job()
        };
        Ok(thread::Builder::new().name(name.to_owned()).spawn(inside)?)
    }

    /// A command that will run inside, and that gets SIGTERM when the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let file = self.file.try_clone()?;
        let mut command = Command::new(program.as_ref());
        let enter = move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made; nothing is allocated and no lock is taken.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs `ip` on this namespace; `arguments` are separated by spaces.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(arguments.split_whitespace());
        command::run("ip", &all)
    }

    /// Runs many `ip` commands on this namespace, one a line. The first that fails ends it.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        command::run_with_input("ip", &["-n", &self.name, "-batch", "-"], commands).map(drop)
    }

    /// Sets a sysctl inside; `key` starts with `net.`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that numbers and strings look alike where it is called"
    )]
    pub fn set_sysctl(&self, key: &str, value: impl ToString) -> Result<()> {
        let path = sysctl_path(key)?;
        let value = value.to_string();
        self.run(|| fs::write(&path, &value).with_context(|| format!("cannot set {key} to {value}")))
    }

    /// Reads a sysctl inside; `key` starts with `net.`.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key)?;
        self.run(|| {
            let value = fs::read_to_string(&path).with_context(|| format!("cannot read {key}"))?;
            Ok(value.trim().to_owned())
        })
    }

    fn enter(&self) -> Result<()> {
        enter(&self.file)
    }
}

/// Fails unless the calling thread is in a namespace that this process made, which is neither the one this process was
/// started in nor the one of process 1. Whatever sends frames asks this first.
pub fn ensure_inside_own() -> Result<()> {
    let here = identity("/proc/thread-self/ns/net")?;
    ensure!(made().contains(&here), "this is no network namespace of the testbed");
    // The main thread never changes its namespace: entering is done by threads made for it.
    ensure!(
        identity("/proc/self/ns/net")? != here,
        "this is the network namespace the process was started in"
    );
    // Where process 1 may not be looked at, having made this one is what proves that it is another.
    ensure!(identity("/proc/1/ns/net").ok() != Some(here), "this is the network namespace of process 1");
    Ok(())
}

fn enter(file: &File) -> Result<()> {
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")
}

fn made() -> MutexGuard<'static, BTreeSet<(u64, u64)>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Only `net.` follows the namespace of the thread; anything else would change the machine.
fn sysctl_path(key: &str) -> Result<PathBuf> {
    ensure!(key.starts_with("net."), "{key} does not belong to a network namespace");
    Ok(Path::new("/proc/sys").join(key.replace('.', "/")))
}
