//! The configuration file is read again. Its lists may be long, so this has a thread of its own, while the controller goes on.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    dataplane::pins::PinRoot,
    model::{config_file::ConfigFile, lists::plan::LoadSummary, prefix::Cidr, settings::Settings},
    problem::Problem,
    state::{config_file, lists::turns::Turns},
};

/// Sources that the configuration file allows, and those that it denies.
pub(super) type FileLists = (Vec<Cidr>, Vec<Cidr>);

/// What is to be read, on top of which settings.
pub struct Reload {
    pub(super) root: PinRoot,
    /// None: what came from a file before goes.
    pub(super) path: Option<PathBuf>,
    pub(super) settings: Settings,
}

impl Reload {
    /// Puts the lists in force, and returns the rest, which is not in force yet. A file that makes no sense changes nothing.
    pub fn run(self) -> Result<ConfigFile> {
        let file = self.path.as_deref().map(config_file::read).transpose()?.unwrap_or_default();
        if let Some(path) = self.path {
            with_file(&self.settings, path, file.without_lists())?;
        }
        report_changes(&Turns::of(&self.root)?.load(&file.allow, &file.deny)?);
        Ok(file.without_lists())
    }
}

/// The settings with what a file says, if that goes together with what was set.
pub(super) fn with_file(
    settings: &Settings,
    path: PathBuf,
    file: ConfigFile,
) -> Result<(Settings, FileLists), Problem> {
    let settings = Settings { file: Some((path, file.layer)), hook: file.hook, ..settings.clone() };
    settings.check()?;
    Ok((settings, (file.allow, file.deny)))
}

/// Says what the lists of the file have changed.
pub(super) fn report_changes(summary: &LoadSummary) {
    if summary.written + summary.removed != 0 {
        log::info!("lists from the file: {} prefixes written, {} removed", summary.written, summary.removed);
    }
    for prefix in &summary.overruled {
        log::warn!("{prefix} stays on the list that it was added to by hand; the file's entry is ignored");
    }
}
