//! What a controller leaves in files for other processes: settings, and what it knows that maps do not hold.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    control::{attacks::Attack, lines::Basis},
    dataplane::pins::PinRoot,
};

/// Where all controllers of this host keep theirs.
const BASE: &str = "/run/defender";

/// The directory of one pin root.
#[derive(Clone, Debug)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// The directory for `root`, which need not exist.
    pub fn of(root: &PinRoot) -> Self {
        Self(Path::new(BASE).join(escape(&root.path().to_string_lossy())))
    }

    /// Creates it. Returns whether it was missing.
    pub fn create(&self) -> Result<bool> {
        let missing = !self.0.exists();
        fs::create_dir_all(&self.0).with_context(|| format!("cannot create {}", self.0.display()))?;
        Ok(missing)
    }

    /// Removes it and everything in it.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", self.0.display()));
            }
            _ => {}
        }
        // Others may have theirs there.
        let _ = fs::remove_dir(BASE);
        Ok(())
    }

    pub(super) fn controller_lock(&self) -> PathBuf {
        self.0.join("controller.lock")
    }

    pub(super) fn write_lock(&self) -> PathBuf {
        self.0.join("write.lock")
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    pub(super) fn findings(&self) -> PathBuf {
        self.0.join("findings.json")
    }

    pub(super) fn lists(&self) -> PathBuf {
        self.0.join("lists.json")
    }
}

/// A path as a file name: `/` becomes `-`, as systemd does it.
pub fn escape(path: &str) -> String {
    path.trim_matches('/').replace('%', "%25").replace('-', "%2d").replace('/', "-")
}

/// Reads a JSON file; none where it does not exist.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} makes no sense", path.display()))
}

/// Writes a JSON file in one step: readers see the old one or the new one.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What the controller has found out and the maps do not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Why services cannot be protected, by service id.
    #[serde(default)]
    pub unprotectable: BTreeMap<u32, String>,
    /// Attacks under way, by service id.
    #[serde(default)]
    pub attacks: BTreeMap<u32, Attack>,
    /// What lines are drawn from, by service id.
    #[serde(default)]
    pub basis: BTreeMap<u32, Basis>,
    /// What else people should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Findings {
    /// What was found out last.
    pub fn read(directory: &StateDirectory) -> Result<Self> {
        Ok(read(&directory.findings())?.unwrap_or_default())
    }

    /// Tells other processes.
    pub fn write(&self, directory: &StateDirectory) -> Result<()> {
        write(&directory.findings(), self)
    }
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
}
