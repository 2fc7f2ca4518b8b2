//! What commands have done, and settings, as JSON. Pure.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    model::{
        config_file::ConfigFile,
        endpoint::Endpoint,
        setting_table::{Unit, Value},
        settings::{Key, Settings, Source},
    },
    report::VERSION,
};

#[derive(Serialize)]
struct ShownSettings<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// The settings: the one that was asked for, or those that `get` lists.
    settings: Vec<ShownSetting<'a>>,
}

#[derive(Serialize)]
struct ShownSetting<'a> {
    /// The setting, or `PORT.SETTING`.
    key: String,
    /// The value in force as people write it, in the unit it was given in; `default` if it depends on the host.
    value: String,
    /// The number in force, in `unit`; null if the value is no number, or depends on the host.
    number: Option<u32>,
    /// What the number is counted in.
    unit: Option<&'static str>,
    /// Where the value comes from: `set`, `file` or `default`.
    source: &'static str,
    /// Path of the file.
    file: Option<&'a str>,
}

impl<'a> ShownSetting<'a> {
    fn of(settings: &'a Settings, key: Key) -> Self {
        let found = settings.in_force(key);
        Self {
            key: key.to_string(),
            value: found.shown(),
            number: match found.value {
                Some(Value::Number(number)) => Some(number),
                Some(Value::Mode(_)) | None => None,
            },
            unit: key.setting.unit().map(Unit::name),
            source: found.source.name(),
            file: match found.source {
                Source::File(path) => path.to_str(),
                Source::Set | Source::Default => None,
            },
        }
    }
}

/// `get --json`, and `set --json` after the change.
pub fn settings(settings: &Settings, keys: &[Key]) -> Result<String> {
    let shown = keys.iter().map(|key| ShownSetting::of(settings, *key)).collect();
    line(&ShownSettings { version: VERSION, settings: shown })
}

#[derive(Serialize)]
struct CheckedConfig<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// The file, which is valid.
    file: &'a str,
    /// How many settings it has.
    settings: usize,
    /// How many prefixes it allows.
    allowed: usize,
    /// How many prefixes it denies.
    denied: usize,
}

/// `config check --json`.
pub fn config(path: &Path, file: &ConfigFile) -> Result<String> {
    line(&CheckedConfig {
        version: VERSION,
        file: &path.to_string_lossy(),
        settings: file.layer.keys().count(),
        allowed: file.allow.len(),
        denied: file.deny.len(),
    })
}

#[derive(Serialize)]
struct AttachedInterfaces<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// The interfaces that are attached.
    interfaces: &'a [String],
    /// The mode of ports without one of their own.
    mode: &'static str,
    /// The services that were found.
    services: Vec<FoundService>,
}

#[derive(Serialize)]
struct FoundService {
    /// The service's port.
    port: u16,
    /// The service's address; `0.0.0.0` or `::` for every address.
    address: String,
}

/// `attach --json`.
pub fn attached<'a>(
    interfaces: &[String],
    settings: &Settings,
    services: impl Iterator<Item = &'a Endpoint>,
) -> Result<String> {
    let found =
        |service: &Endpoint| FoundService { port: service.port, address: service.address.to_string() };
    line(&AttachedInterfaces {
        version: VERSION,
        interfaces,
        mode: settings.mode().name(),
        services: services.map(found).collect(),
    })
}

#[derive(Serialize)]
struct DetachedInterfaces<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// The interfaces that were detached. Empty: nothing was attached.
    detached: &'a [String],
}

/// `detach --json`.
pub fn detached(interfaces: &[String]) -> Result<String> {
    line(&DetachedInterfaces { version: VERSION, detached: interfaces })
}

fn line(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map(|text| text + "\n").context("cannot write JSON")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{setting_table::Setting, settings::Key};

    fn read(text: Result<String>) -> Value {
        serde_json::from_str(&text.expect("JSON")).expect("JSON")
    }

    #[test]
    fn settings_say_value_unit_and_source() {
        let mut given = Settings::default();
        given.set("443.min_active".parse().expect("a key"), "5m").expect("a duration");
        let keys = ["443.min_active", "mode", "reply_limit"].map(|key| key.parse().expect("a key"));
        assert_eq!(
            read(settings(&given, &keys)),
            json!({"version": 1, "settings": [
                {"key": "443.min_active", "value": "5m", "number": 300, "unit": "seconds", "source": "set", "file": null},
                {"key": "mode", "value": "auto", "number": null, "unit": null, "source": "default", "file": null},
                {"key": "reply_limit", "value": "default", "number": null, "unit": "SYN-ACKs per second",
                 "source": "default", "file": null},
            ]})
        );
        given.file = Some((PathBuf::from("/etc/x.toml"), given.set.clone()));
        given.set = Settings::default().set;
        let json = read(settings(&given, &[Key::of(443, Setting::MinActive)]));
        assert_eq!(json["settings"][0]["file"], "/etc/x.toml");
    }

    #[test]
    fn what_was_done_has_a_version() {
        assert_eq!(read(detached(&["eth0".into()])), json!({"version": 1, "detached": ["eth0"]}));
        let path = Path::new("/etc/x.toml");
        assert_eq!(
            read(config(path, &ConfigFile::default())),
            json!({"version": 1, "file": "/etc/x.toml", "settings": 0, "allowed": 0, "denied": 0})
        );
        let service = Endpoint { port: 443, address: "::".parse().expect("an address"), families: 0 };
        assert_eq!(
            read(attached(&["eth0".into()], &Settings::default(), [service].iter())),
            json!({"version": 1, "interfaces": ["eth0"], "mode": "auto", "services": [{"port": 443, "address": "::"}]})
        );
    }
}
