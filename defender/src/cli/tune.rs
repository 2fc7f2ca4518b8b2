//! `set` and `get`.

use anyhow::Result;

use super::{GetArguments, SetArguments};
use crate::{
    control::{
        outside,
        settings::{Key, Settings},
        state::StateDirectory,
    },
    dataplane::pins::PinRoot,
};

pub(super) fn set(root: &PinRoot, arguments: &SetArguments) -> Result<()> {
    let key: Key = arguments.key.parse()?;
    // A wrong value is wrong usage, whether or not anything is attached.
    if arguments.value != "default" {
        key.setting.parse(&arguments.value)?;
    }
    let ports = outside::apply_settings(root, |settings| settings.set(key, &arguments.value))?;
    if let Some(port) = key.port
        && !ports.contains(&port)
    {
        log::warn!("no defended service listens on port {port}; the setting waits for one");
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
