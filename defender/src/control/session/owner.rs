//! Who is in control, and whose turn it is to write.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Session;
use crate::{
    control::{admin, succession},
    dataplane::detach,
    files::Complaints,
    state::{
        directory::StateDirectory,
        findings::Findings,
        lists::Lists,
        lock::{ControllerLock, Waiting, WriteLock},
    },
};

/// Whose turn it is to write.
pub(super) enum Turn {
    Ours(WriteLock),
    /// Someone else's, who is done in a moment.
    Theirs,
    /// Someone else's, who is not done: what needs the lock least goes on without.
    Withheld,
    /// Nobody's: all is detached.
    Detached,
}

/// How long the end waits for who writes.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// The files by which processes take turns.
pub(super) struct Owner {
    /// Where they are.
    pub directory: StateDirectory,
    /// This process is in control.
    pub lock: ControllerLock,
    /// For how long others have held the write lock.
    pub waiting: Waiting,
    /// What went wrong with files.
    pub complaints: Complaints,
}

impl Owner {
    /// This process is in control.
    pub(super) fn new(directory: StateDirectory, lock: ControllerLock) -> Self {
        Self { directory, lock, waiting: Waiting::default(), complaints: Complaints::default() }
    }
}

impl Session {
    /// Whether another process wants to be in control.
    pub fn is_to_hand_over(&self) -> bool {
        succession::is_asked_for(&self.owner.directory)
    }

    /// Leaves everything attached, with nobody in control.
    pub fn leave(self) -> Result<()> {
        self.owner.lock.leave()
    }

    /// Detaches and removes every trace, unless someone has done so. Who has the lock is not waited for.
    pub fn finish(mut self) -> Result<()> {
        let deadline = Instant::now() + LAST_PATIENCE;
        let _write = loop {
            match self.turn() {
                Ok(Turn::Ours(lock)) => break Some(lock),
                // Someone may have attached anew meanwhile; then it is not ours to remove.
                Ok(Turn::Detached) if self.owner.lock.is_current(&self.owner.directory) => {
                    return self.remove_all();
                }
                Ok(Turn::Detached) => return Ok(()),
                Ok(Turn::Theirs | Turn::Withheld) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(Turn::Theirs | Turn::Withheld) => {
                    log::warn!("another process holds the lock; detaching without it");
                    break None;
                }
                Err(error) => {
                    log::warn!("{error:#}; detaching without the lock");
                    break None;
                }
            }
        };
        let (hooks, hook) = (&self.hooks, self.configuration.settings.hook.as_ref());
        let tell = |event| {
            if let Some(hook) = hook {
                hooks.offer(hook, event);
            }
        };
        admin::drain(&self.root, &self.owner.directory, &mut self.maps, tell)?;
        self.remove_all()
    }

    pub(super) fn remove_all(self) -> Result<()> {
        detach::everything(&self.root, self.links.held.into_links())?;
        self.owner.directory.remove()
    }

    /// Takes the lock if it is free, unless someone has detached everything or attached anew.
    pub(super) fn turn(&mut self) -> Result<Turn> {
        if self.is_detached()? {
            return Ok(Turn::Detached);
        }
        let fresh = self.owner.directory.create();
        let tried = fresh.and_then(|fresh| Ok((fresh, self.owner.waiting.try_lock(&self.owner.directory)?)));
        // Where files cannot be locked, nobody else writes either.
        let Some((fresh, lock)) = self.owner.complaints.heard("lock", tried) else {
            return Ok(Turn::Withheld);
        };
        // Who had the lock before may have detached, and removed the directory.
        if self.is_detached()? {
            if fresh {
                self.owner.directory.remove()?;
            }
            return Ok(Turn::Detached);
        }
        Ok(match lock {
            Some(lock) => Turn::Ours(lock),
            None if self.owner.waiting.is_long() => Turn::Withheld,
            None => Turn::Theirs,
        })
    }

    pub(super) fn is_detached(&self) -> Result<bool> {
        Ok(self.links.held.interfaces(&self.root)?.is_empty()
            || self.owner.lock.is_replaced(&self.owner.directory))
    }

    /// Writes again what someone has removed or damaged.
    pub(super) fn repair_files(&mut self) -> Result<()> {
        self.owner.lock.renew(&self.owner.directory)?;
        if Findings::are_missing(&self.owner.directory) {
            self.findings.write(&self.owner.directory)?;
        }
        Lists::of(&mut self.maps, &self.owner.directory).repair_counts()
    }
}
