//! State files in JSON.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::files;

/// Reads a JSON file; none where it does not exist, or is damaged: then it is set aside.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    files::read(path, |text| serde_json::from_str(text).map_err(|error| error.to_string()))
}

/// Writes a JSON file in one step: readers see the old one or the new one.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    files::write(path, &serde_json::to_string_pretty(value).context("cannot write JSON")?)
}
