//! Where settings are kept, so that the controller and `defender set` agree.

use anyhow::Result;

use crate::{
    model::settings::Settings,
    state::{directory::StateDirectory, json},
};

/// What was set last; none where nobody has set anything.
pub fn read(directory: &StateDirectory) -> Result<Option<Settings>> {
    json::read(&directory.settings())
}

/// Keeps the settings for other processes, and for a controller to come.
pub fn write(directory: &StateDirectory, settings: &Settings) -> Result<()> {
    json::write(&directory.settings(), settings)
}
