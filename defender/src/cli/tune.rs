//! `set` and `get`.

use anyhow::Result;

use super::{GetArguments, SetArguments};
use crate::{
    control::{
        outside,
        settings::{Key, Mode, Settings},
        state::StateDirectory,
    },
    dataplane::pins::PinRoot,
};

pub(super) fn set(root: &PinRoot, arguments: &SetArguments) -> Result<()> {
    let key: Key = arguments.key.parse()?;
    // A wrong value is wrong usage, whether or not anything is attached.
    Settings::default().set(key, &arguments.value)?;
    let ports = outside::apply_settings(root, |settings| settings.set(key, &arguments.value))?;
    if let Key::PortMode(port) = key
        && !ports.contains(&port)
    {
        log::warn!("no defended service listens on port {port}; the setting waits for one");
    }
    if arguments.value == Mode::Auto.name() {
        log::info!(
            "auto: this version does not notice attacks by itself and only watches; `always` challenges"
        );
    }
    Ok(())
}

pub(super) fn get(root: &PinRoot, arguments: &GetArguments) -> Result<()> {
    let key = arguments.key.as_deref().map(str::parse::<Key>).transpose()?;
    root.require_attached()?;
    let settings = Settings::read(&StateDirectory::of(root))?.unwrap_or_default();
    match key {
        Some(key) => println!("{}", settings.get(key)),
        None => {
            for key in settings.keys() {
                println!("{key} {}", settings.get(key));
            }
        }
    }
    Ok(())
}
