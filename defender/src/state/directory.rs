//! The directory of a pin root's state, and where each file is in it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{dataplane::pins::PinRoot, files};

/// Where all controllers of this host keep theirs, unless `DEFENDER_RUN_DIR` says otherwise.
const BASE: &str = "/run/defender";
/// The directory of one pin root.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
    pins: PathBuf,
}

impl StateDirectory {
    /// The directory for `root`, which need not exist.
    pub fn of(root: &PinRoot) -> Self {
        let base = env::var_os("DEFENDER_RUN_DIR").filter(|path| !path.is_empty());
        let base = base.map_or_else(|| PathBuf::from(BASE), PathBuf::from);
        let pins = root.path().to_owned();
        Self { path: base.join(escape(&pins.to_string_lossy())), pins }
    }

    fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(BASE))
    }

    /// Creates it, for us alone. Returns whether it was missing.
    pub fn create(&self) -> Result<bool> {
        files::create_passage(self.base())?;
        files::create_directory(&self.path)
    }

    /// Fails where others can put files of theirs there.
    pub fn require_private(&self) -> Result<()> {
        if self.base().is_dir() {
            files::require_trusted_directory(self.base())?;
        }
        if self.path.is_dir() { files::require_private_directory(&self.path) } else { Ok(()) }
    }

    /// Removes it and everything in it.
    pub fn remove(&self) -> Result<()> {
        self.remove_all().with_context(|| format!("cannot remove {}", self.path.display()))?;
        // Others may have theirs there; a base of somebody's choice is not ours to remove.
        if self.base() == Path::new(BASE) {
            let _ = fs::remove_dir(BASE);
        }
        Ok(())
    }

    /// Another process may write a file between the last look and the removal of the directory: then all is removed once more.
    fn remove_all(&self) -> io::Result<()> {
        const TRIES: u32 = 10;
        let mut tries = 0;
        loop {
            tries += 1;
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {}
                result => return result,
            }
        }
    }

    /// The pin root's own directory.
    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    pub(crate) fn controller_lock(&self) -> PathBuf {
        self.path.join("controller.lock")
    }

    pub(crate) fn write_lock(&self) -> PathBuf {
        self.path.join("write.lock")
    }

    pub(crate) fn successor(&self) -> PathBuf {
        self.path.join("successor")
    }

    pub(crate) fn heartbeat(&self) -> PathBuf {
        self.path.join("heartbeat")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.path.join("settings.json")
    }

    pub(crate) fn findings(&self) -> PathBuf {
        self.path.join("findings.json")
    }

    pub(crate) fn lists(&self) -> PathBuf {
        self.path.join("lists.json")
    }

    pub(crate) fn notes(&self) -> PathBuf {
        self.path.join("notes.json")
    }
}

/// A path as a file name: `/` becomes `-`, as systemd does it.
pub fn escape(path: &str) -> String {
    path.trim_matches('/').replace('%', "%25").replace('-', "%2d").replace('/', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_pin_roots_have_different_directories() {
        assert_eq!(escape("/sys/fs/bpf/defender"), "sys-fs-bpf-defender");
        assert_ne!(escape("/sys/fs/bpf/a/b"), escape("/sys/fs/bpf/a-b"));
        assert_ne!(escape("/sys/fs/bpf/a-b"), escape("/sys/fs/bpf/a%2db"));
    }

    #[test]
    fn a_directory_that_is_written_to_meanwhile_is_removed() {
        let path = env::temp_dir().join(format!("defender-state-{}", std::process::id()));
        let directory = StateDirectory { path: path.clone(), pins: PathBuf::new() };
        for _ in 0..500 {
            fs::create_dir_all(&path).expect("a directory");
            std::thread::scope(|scope| {
                scope.spawn(|| (0..5).for_each(|name| drop(fs::write(path.join(name.to_string()), "x"))));
                directory.remove().expect("it is removed");
            });
            // A file may have come after the last look only if the directory was still there: then it is removed above.
            assert!(!path.exists());
        }
    }
}
