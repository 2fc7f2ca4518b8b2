//! `set`.

use anyhow::Result;

use super::{SetArguments, output::show, values::parse_key};
use crate::{control::admin, dataplane::pins::PinRoot, report::outcome};

pub(super) fn set(root: &PinRoot, arguments: &SetArguments) -> Result<()> {
    let key = parse_key(&arguments.key)?;
    // An invalid value is a usage error, whether or not anything is attached.
    if arguments.value != "default" {
        key.setting.parse(&arguments.value)?;
    }
    let (settings, ports) = admin::apply_settings(root, |settings| settings.set(key, &arguments.value))?;
    if let Some(port) = key.port
        && arguments.value != "default"
        && !ports.contains(&port)
    {
        log::warn!("no service on port {port} yet; the setting applies as soon as there is one");
    }
    if arguments.output.is_json() { show(&outcome::settings(&settings, &[key])?) } else { Ok(()) }
}
