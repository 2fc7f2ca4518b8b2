//! `set`.

use anyhow::Result;

use super::SetArguments;
use crate::{control::admin, dataplane::pins::PinRoot, model::settings::Key};

pub(super) fn set(root: &PinRoot, arguments: &SetArguments) -> Result<()> {
    let key: Key = arguments.key.parse()?;
    // An invalid value is a usage error, whether or not anything is attached.
    if arguments.value != "default" {
        key.setting.parse(&arguments.value)?;
    }
    let ports = admin::apply_settings(root, |settings| settings.set(key, &arguments.value))?;
    if let Some(port) = key.port
        && !ports.contains(&port)
    {
        log::warn!("no service on port {port} yet; the setting applies as soon as there is one");
    }
    Ok(())
}
