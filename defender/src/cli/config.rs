//! `config check`.

use std::path::{self, Path};

use anyhow::{Context as _, Result};

use super::{ConfigCommand, output::show};
use crate::{model::config_file::ConfigFile, report::outcome, state::config_file};

pub(super) fn config(command: &ConfigCommand) -> Result<()> {
    let ConfigCommand::Check { file, output } = command;
    // As `run` names it.
    let path = path::absolute(file).with_context(|| format!("cannot find {}", file.display()))?;
    let file = config_file::read(&path)?;
    show(&if output.is_json() { outcome::config(&path, &file)? } else { check(&path, &file) })
}

/// One line about a valid file.
fn check(path: &Path, file: &ConfigFile) -> String {
    let settings = file.layer.keys().count();
    let (path, allow, deny) = (path.display(), file.allow.len(), file.deny.len());
    format!("{path} is valid: {settings} settings, {allow} prefixes allowed, {deny} denied\n")
}
