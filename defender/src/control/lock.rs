//! One controller for a pin root, and one writer at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::{control::state::StateDirectory, problem::Problem};

/// Held by the process that controls a pin root, as long as it lives.
#[derive(Debug)]
pub struct ControllerLock(File);

/// Held while maps or state files are written.
#[derive(Debug)]
pub struct WriteLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl ControllerLock {
    /// Takes the lock; fails with the holder's process id where another process has it.
    pub fn take(directory: &StateDirectory) -> Result<Self> {
        let path = directory.controller_lock();
        loop {
            let mut file = open(&path)?;
            match file.try_lock() {
                Ok(()) if is_still_at(&file, &path) => {
                    file.set_len(0)
                        .and_then(|()| write!(file, "{}", std::process::id()))
                        .with_context(|| format!("cannot write {}", path.display()))?;
                    return Ok(Self(file));
                }
                // The holder before has removed the file meanwhile.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held_by(&mut file).into()),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    /// Whether this lock still keeps others out: not after its file was removed.
    pub fn is_current(&self, directory: &StateDirectory) -> bool {
        is_still_at(&self.0, &directory.controller_lock())
    }

    /// The process that holds the lock, if one does.
    pub fn holder(directory: &StateDirectory) -> Option<u32> {
        let mut file = File::open(directory.controller_lock()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => pid_in(&mut file),
            _ => None,
        }
    }
}

impl WriteLock {
    /// Waits for the lock and takes it.
    pub fn take(directory: &StateDirectory) -> Result<Self> {
        let path = directory.write_lock();
        loop {
            let file = open(&path)?;
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            if is_still_at(&file, &path) {
                return Ok(Self(file));
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

fn held_by(file: &mut File) -> Problem {
    let holder = pid_in(file).map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
    Problem::InUse(format!(
        "{holder} is in control here already: stop it first (SIGTERM), or use another --pin-root; \
         `defender set` changes its settings while it runs"
    ))
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
