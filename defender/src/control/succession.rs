//! How a controller comes into control: where nobody is, or by taking over from the process that is.
//!
//! That process is asked by a signal, ends without detaching, and so lets go of its lock. It is known by the lock it holds,
//! and asked by a descriptor of the process: whoever gets its number afterwards is not meant. Who asks says so in a file
//! first: the same signal from anybody else means nothing.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    files,
    host::process,
    problem::Problem,
    state::{directory::StateDirectory, lock::ControllerLock},
};

/// What asks a controller to hand over. One that does not know it is killed by it, which detaches nothing either.
pub const HAND_OVER: Signal = Signal::SIGUSR2;

/// How long a controller may take to hand over before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);

/// Whether a process that lives has asked the one in control to hand over.
pub fn is_asked_for(directory: &StateDirectory) -> bool {
    let pid =
        files::read(&directory.successor(), |text| text.trim().parse().map_err(|_| "no process".to_owned()));
    matches!(pid, Ok(Some(pid)) if process::is_alive(pid))
}

/// Says who asks, until it is dropped.
struct Request(PathBuf);

impl Request {
    fn write(directory: &StateDirectory) -> Result<Self> {
        let path = directory.successor();
        files::write(&path, &std::process::id().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // It may have gone with everything else; and what is left of a process that ended asks for nothing.
        let _ = fs::remove_file(&self.0);
    }
}

/// How this process comes into control.
#[derive(Debug)]
pub enum Succession {
    /// Nobody is in control.
    Alone(ControllerLock),
    /// Somebody is.
    After(Predecessor),
}

/// The process in control.
#[derive(Debug)]
pub struct Predecessor {
    pid: u32,
    process: OwnedFd,
}

impl Succession {
    /// Takes the lock. Where another process has it, fails unless that one is to be replaced.
    pub fn begin(directory: &StateDirectory, replace: bool) -> Result<Self> {
        loop {
            match ControllerLock::take(directory) {
                Ok(lock) => return Ok(Self::Alone(lock)),
                Err(error) if replace && is_held(&error) => {
                    if let Some(pid) = ControllerLock::holder(directory) {
                        return Predecessor::open(pid, directory).map(Self::After);
                    }
                    // It has just ended, or has not said yet who it is.
                    thread::sleep(POLL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether nobody has to hand over.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }

    /// Has the process in control hand over.
    pub fn complete(self, directory: &StateDirectory) -> Result<ControllerLock> {
        match self {
            Self::Alone(lock) => Ok(lock),
            Self::After(predecessor) => predecessor.assign(directory),
        }
    }
}

fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Problem::InUse(_)))
}

impl Predecessor {
    fn open(pid: u32, directory: &StateDirectory) -> Result<Self> {
        let process = pidfd_open(pid).with_context(|| format!("cannot find process {pid}"))?;
        // After the descriptor is there: from here on it is this process or none.
        ensure!(
            ControllerLock::is_held_by(directory, pid) || has_open(pid, &directory.controller_lock()),
            "the lock names process {pid}, which does not have {} open; nothing was done. See who has: `fuser {0}`",
            directory.controller_lock().display()
        );
        Ok(Self { pid, process })
    }

    fn assign(self, directory: &StateDirectory) -> Result<ControllerLock> {
        let _request = Request::write(directory)?;
        if process::is_stopped(self.pid) {
            log::warn!("process {} is stopped and cannot hand over; killing it", self.pid);
        } else {
            self.send(HAND_OVER)?;
            if let Some(lock) = self.wait(directory)? {
                return Ok(lock);
            }
            log::warn!("process {} did not hand over within {} s; killing it", self.pid, PATIENCE.as_secs());
        }
        self.send(Signal::SIGKILL)?;
        self.wait(directory)?.with_context(|| format!("process {} does not end", self.pid))
    }

    /// Waits for the lock.
    fn wait(&self, directory: &StateDirectory) -> Result<Option<ControllerLock>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match ControllerLock::take(directory) {
                Ok(lock) => return Ok(Some(lock)),
                Err(error) if is_held(&error) => {}
                Err(error) => return Err(error),
            }
            if let Some(other) = ControllerLock::holder(directory).filter(|holder| *holder != self.pid) {
                bail!(Problem::InUse(format!(
                    "process {other} has taken over from process {} meanwhile",
                    self.pid
                )));
            }
            thread::sleep(POLL);
        }
        Ok(None)
    }

    fn send(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_raw_fd();
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open, and the kernel fills in what a null pointer leaves out.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, signal as libc::c_int, no_info, 0) };
        match io::Error::last_os_error() {
            // It has ended by itself.
            error if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) => {
                Err(error).with_context(|| format!("cannot signal process {}", self.pid))
            }
            _ => Ok(()),
        }
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Whether a process has this file open.
fn has_open(pid: u32, path: &Path) -> bool {
    let Ok(wanted) = fs::metadata(path) else { return false };
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let files = descriptors.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
    files.into_iter().any(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino()))
}

#[cfg(test)]
mod tests {
    use std::{env, fs::File, process};

    use super::*;

    #[test]
    fn only_who_has_the_lock_open_is_meant() {
        let path = env::temp_dir().join(format!("defender-succession-{}", process::id()));
        let file = File::create(&path).expect("created");
        assert!(has_open(process::id(), &path));
        drop(file);
        assert!(!has_open(process::id(), &path));
        fs::remove_file(&path).expect("removed");
        assert!(!has_open(process::id(), &path));
    }
}
