//! One controller for a pin root, and one writer at a time.
//!
//! A controller holds two locks for life: that of the pin root's directory, which nobody can take away from it, and that of a
//! file, in which others find its process id. Nobody waits for a lock without end.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{files, problem::Problem, state::directory::StateDirectory};

/// How long commands wait for others to be done with writing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Who only looks whether there is a controller has its lock for so long at the most.
const GLANCE: Duration = Duration::from_millis(100);
/// From then on the lock is withheld: that is logged, and what needs it least goes on without.
const WITHHELD: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Held by the process that controls a pin root, as long as it lives.
#[derive(Debug)]
pub struct ControllerLock {
    pins: File,
    /// None while someone else holds the file.
    file: Option<File>,
}

/// Held while maps or state files are written.
#[derive(Debug)]
pub struct WriteLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl ControllerLock {
    /// Takes the lock of a pin root, which exists; fails with the holder's process id where another process has it.
    pub fn take(directory: &StateDirectory) -> Result<Self> {
        let cannot = || format!("cannot lock {}", directory.pins().display());
        let pins = File::open(directory.pins()).with_context(cannot)?;
        if !lock_within(&pins, GLANCE).with_context(cannot)? {
            return Err(held_by(Self::holder(directory)).into());
        }
        let path = directory.controller_lock();
        // A controller of a former version holds that one alone.
        let file = lock_file(&path, GLANCE)?.ok_or_else(|| held_by(pid_at(&path)))?;
        let mut lock = Self { pins, file: Some(file) };
        lock.sign(directory)?;
        Ok(lock)
    }

    /// Writes down who holds it.
    fn sign(&mut self, directory: &StateDirectory) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        write!(file, "{}", std::process::id())
            .with_context(|| format!("cannot write {}", directory.controller_lock().display()))
    }

    /// Puts the file back where someone has removed it, and locks a pin root that is there again.
    pub fn renew(&mut self, directory: &StateDirectory) -> Result<()> {
        if let Some(pins) = self.another_root(directory)
            && pins.try_lock().is_ok()
        {
            self.pins = pins;
        }
        if !self.has_file(directory) {
            self.file = lock_file(&directory.controller_lock(), Duration::ZERO)?;
            self.sign(directory)?;
        }
        Ok(())
    }

    fn has_file(&self, directory: &StateDirectory) -> bool {
        self.file.as_ref().is_some_and(|file| is_still_at(file, &directory.controller_lock()))
    }

    /// The pin root, if it is another directory than the one that was locked.
    fn another_root(&self, directory: &StateDirectory) -> Option<File> {
        let pins = File::open(directory.pins()).ok()?;
        (!is_still_at(&self.pins, directory.pins())).then_some(pins)
    }

    /// Whether the pin root is another directory now, which another controller has.
    pub fn is_replaced(&self, directory: &StateDirectory) -> bool {
        self.another_root(directory).is_some_and(|pins| is_held(&pins))
    }

    /// Whether this lock still keeps others out.
    pub fn is_current(&self, directory: &StateDirectory) -> bool {
        self.has_file(directory) && !self.is_replaced(directory)
    }

    /// Says that nobody is to be in control from now on.
    pub fn leave(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_len(0)).context("cannot leave the lock")
    }

    /// After a start that failed: the file names who it named before, not this process, which was never in control.
    pub fn disown(directory: &StateDirectory, before: Option<u32>) -> Result<()> {
        let path = directory.controller_lock();
        if pid_at(&path) != Some(std::process::id()) {
            return Ok(());
        }
        let mut file = files::open_to_write(&path, OpenOptions::new().write(true).truncate(true))?;
        let before = before.map_or_else(String::new, |pid| pid.to_string());
        file.write_all(before.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The process that has held the lock last, if it did not [leave](Self::leave). To be asked if nobody holds it.
    pub fn last_holder(directory: &StateDirectory) -> Option<u32> {
        pid_at(&directory.controller_lock())
    }

    /// The process that holds the lock, if one does.
    pub fn holder(directory: &StateDirectory) -> Option<u32> {
        let path = directory.controller_lock();
        let of_root = File::open(directory.pins()).ok();
        let of_file = files::open_to_read(&path).ok().flatten();
        let file = [of_root, of_file].into_iter().flatten().find(is_held)?;
        holder_of(&file).or_else(|| pid_at(&path))
    }

    /// Whether the kernel says that this process has the lock.
    pub fn is_held_by(directory: &StateDirectory, pid: u32) -> bool {
        let of_root = File::open(directory.pins()).ok();
        let of_file = files::open_to_read(&directory.controller_lock()).ok().flatten();
        [of_root, of_file].iter().flatten().any(|file| holder_of(file) == Some(pid))
    }
}

impl WriteLock {
    /// Waits for the lock and takes it, but not for ever: fails with who has it.
    pub fn take(directory: &StateDirectory) -> Result<Self> {
        let waited = PATIENCE.as_secs();
        Self::take_within(directory, PATIENCE)?.ok_or_else(|| {
            let (holder, kill) = match Self::holder(directory) {
                Some(pid) => (name_of(pid), format!(", or end it (`kill {pid}`)")),
                None => ("another process".to_owned(), String::new()),
            };
            Problem::InUse(format!(
                "{holder} has been changing settings or attachments here for {waited} s (it holds {}); try again \
                 when it is done{kill}",
                directory.write_lock().display()
            ))
            .into()
        })
    }

    /// Takes the lock if it is to be had within `patience`.
    pub fn take_within(directory: &StateDirectory, patience: Duration) -> Result<Option<Self>> {
        Ok(lock_file(&directory.write_lock(), patience)?.map(Self))
    }

    /// The process that holds it, if the kernel says so.
    fn holder(directory: &StateDirectory) -> Option<u32> {
        holder_of(&files::open_to_read(&directory.write_lock()).ok()??)
    }
}

/// For how long a controller has not been given the write lock.
#[derive(Debug, Default)]
pub struct Waiting {
    since: Option<Instant>,
    reported: bool,
}

impl Waiting {
    /// Takes the lock if it is free.
    pub fn try_lock(&mut self, directory: &StateDirectory) -> Result<Option<WriteLock>> {
        let lock = WriteLock::take_within(directory, Duration::ZERO)?;
        if lock.is_some() {
            self.ended();
        } else if self.goes_on(Instant::now()) {
            let holder = WriteLock::holder(directory).map_or_else(|| "another process".to_owned(), name_of);
            log::warn!(
                "{holder} has held {} for more than {} s; until it lets go, settings and interfaces cannot change, \
                 but services and keys are kept up to date",
                directory.write_lock().display(),
                WITHHELD.as_secs()
            );
        }
        Ok(lock)
    }

    /// So long that what needs the lock least goes on without.
    pub fn is_long(&self) -> bool {
        self.reported
    }

    fn ended(&mut self) {
        if self.reported {
            log::info!("the lock is free again");
        }
        *self = Self::default();
    }

    /// Returns whether that is to be logged.
    fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let news = !self.reported && now.duration_since(since) >= WITHHELD;
        self.reported |= news;
        news
    }
}

/// Locks the file at `path`, which is made where it is missing; none if others have it for longer than `patience`.
fn lock_file(path: &Path, patience: Duration) -> Result<Option<File>> {
    loop {
        let file = files::open_to_write(path, OpenOptions::new().read(true).write(true).create(true))?;
        if !lock_within(&file, patience).with_context(|| format!("cannot lock {}", path.display()))? {
            return Ok(None);
        }
        // Otherwise the holder before has removed the file meanwhile.
        if is_still_at(&file, path) {
            // What it says, if anything, is its holder's to write.
            file.set_len(0).with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(Some(file));
        }
    }
}

fn lock_within(file: &File, patience: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(POLL),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether another process has a lock.
fn is_held(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

fn held_by(holder: Option<u32>) -> Problem {
    let holder = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    Problem::InUse(format!(
        "defender is already running here ({holder}). To upgrade without detaching: `defender run --replace`. To \
         change settings: `defender set`. For a second instance: another --pin-root"
    ))
}

/// The process id in a controller's file.
fn pid_at(path: &Path) -> Option<u32> {
    let mut text = String::new();
    files::open_to_read(path).ok()??.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn name_of(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

/// The process that has locked a file.
fn holder_of(file: &File) -> Option<u32> {
    let file = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, (libc::major(file.dev()), libc::minor(file.dev())), file.ino())
}

/// The same, from what proc_locks(5) says. Pure.
fn holder_in(locks: &str, (major, minor): (u32, u32), inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Who waits for a lock has an arrow before its kind.
        match fields[..] {
            [_, "FLOCK", _, "WRITE" | "READ", pid, at, ..] if at == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_found_and_who_waits_is_not() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11275 00:27:3958475 0 EOF
1: -> FLOCK  ADVISORY  WRITE 11276 00:27:3958475 0 EOF
2: POSIX  ADVISORY  WRITE 11277 fe:00:9814119 0 EOF
3: -> FLOCK  ADVISORY  WRITE 11278 fe:00:5 0 EOF
3: FLOCK  ADVISORY  READ 11279 fe:00:5 0 EOF
";
        assert_eq!(holder_in(locks, (0, 0x27), 3_958_475), Some(11_275));
        assert_eq!(holder_in(locks, (0xfe, 0), 9_814_119), None);
        assert_eq!(holder_in(locks, (0xfe, 0), 5), Some(11_279));
        assert_eq!(holder_in("", (0, 0), 0), None);
    }

    #[test]
    fn a_withheld_lock_is_told_of_once() {
        let mut waiting = Waiting::default();
        let start = Instant::now();
        assert!(!waiting.goes_on(start) && !waiting.goes_on(start + WITHHELD / 2) && !waiting.is_long());
        assert!(waiting.goes_on(start + WITHHELD) && waiting.is_long());
        assert!(!waiting.goes_on(start + 2 * WITHHELD) && waiting.is_long());
        waiting.ended();
        assert!(!waiting.is_long() && !waiting.goes_on(start + 3 * WITHHELD));
    }
}
