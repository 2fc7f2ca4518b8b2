//! The configuration file is read again. Its lists may be long, so this has a thread of its own, while the controller goes on.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    dataplane::pins::PinRoot,
    model::{
        config_file::ConfigFile,
        lists::{file::FileLists, plan::LoadSummary},
        settings::{Layer, Settings},
    },
    problem::Problem,
    state::{config_file, lists::turns::Turns},
};

/// What is to be read, on top of which settings.
pub struct Reload {
    pub(super) root: PinRoot,
    /// None: what came from a file before goes.
    pub(super) path: Option<PathBuf>,
    pub(super) settings: Settings,
}

impl Reload {
    /// Puts the lists in force, and returns the settings, which are not in force yet. A file that makes no sense changes
    /// nothing.
    pub fn run(self) -> Result<Layer> {
        let (mut layer, mut lists) = (Layer::default(), FileLists::default());
        if let Some(path) = self.path {
            let (settings, of_file) = with_file(&self.settings, path.clone(), config_file::read(&path)?)?;
            (layer, lists) = (settings.file.map(|(_, layer)| layer).unwrap_or_default(), of_file);
        }
        report_changes(&Turns::of(&self.root)?.load(lists)?);
        Ok(layer)
    }
}

/// The settings with what a file says, if that goes together with what was set.
pub(super) fn with_file(
    settings: &Settings,
    path: PathBuf,
    file: ConfigFile,
) -> Result<(Settings, FileLists), Problem> {
    let settings = Settings { file: Some((path, file.layer)), ..settings.clone() };
    settings.check()?;
    Ok((settings, file.lists))
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
