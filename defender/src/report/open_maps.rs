//! Maps that are kept open from one reading to the next: to open and map them costs more than much of what is read.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result};
use defender_common::abi::map;

use crate::dataplane::pins::PinRoot;

/// Which file something was read from: another one, or one written anew, has another identity.
pub(super) type Identity = (u64, i64, i64);

pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((found.ino(), found.mtime(), found.mtime_nsec()))
}

/// Maps, as they were opened by their pins.
pub(super) struct OpenMaps<T>(Option<(Identity, T)>);

impl<T> Default for OpenMaps<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> OpenMaps<T> {
    /// Those that are pinned now.
    pub(super) fn of(&mut self, root: &PinRoot, open: impl FnOnce(&PinRoot) -> Result<T>) -> Result<&T> {
        let pin = root.map(map::CONFIG);
        let now = identity(&pin).with_context(|| format!("cannot look at {}", pin.display()))?;
        let (_, maps) = match self.0.take().filter(|(then, _)| *then == now) {
            Some(kept) => self.0.insert(kept),
            None => self.0.insert((now, open(root)?)),
        };
        Ok(maps)
    }
}
