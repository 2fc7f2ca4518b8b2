//! `config check`.

use std::path::Path;

use anyhow::Result;

use super::{ConfigCommand, show::show};
use crate::control::config_file::ConfigFile;

pub(super) fn config(command: &ConfigCommand) -> Result<()> {
    let ConfigCommand::Check { file } = command;
    show(&check(file, &ConfigFile::read(file)?))
}

/// What a good file says, in a line.
fn check(path: &Path, file: &ConfigFile) -> String {
    let settings = file.layer.keys().count();
    let (path, allow, deny) = (path.display(), file.allow.len(), file.deny.len());
    format!("{path}: good: settings: {settings}, prefixes allowed: {allow}, prefixes denied: {deny}\n")
}
