//! What was set: read, read again, and written to the maps.

use std::{
    mem,
    net::IpAddr,
    path::{self, PathBuf},
};

use anyhow::{Context as _, Result};
use defender_common::abi;

use super::{Attached, Session, SessionOptions, owner::Turn};
use crate::{
    control::{
        interface_choice,
        reload::{self, FileLists, Reload},
    },
    dataplane::pins::PinRoot,
    model::{
        config_file::ConfigFile,
        lists::entry::List,
        map_values,
        mode::Mode,
        setting_table::{Setting, Value},
        settings::{Key, Settings},
        sysctls,
    },
    problem::Problem,
    state::{
        self, config_file,
        directory::StateDirectory,
        lists::{Admission, Lists},
    },
};

/// Flags of [`abi::Config`] that do not come from sysctls.
const NOT_BY_SYSCTLS: u32 = abi::CONFIG_PREFIXES;

/// What was set, and where it comes from.
pub(super) struct Configuration {
    /// What is in force.
    pub settings: Settings,
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Its lists are not read yet.
    pub lists_are_due: bool,
}

impl Configuration {
    /// These settings are in force. Where clients are defended already, lists of the file that may be long are read later.
    pub(super) fn new(settings: Settings, is_takeover: bool) -> Self {
        let file = settings.file.as_ref().map(|(path, _)| path.clone());
        Self { settings, file, lists_are_due: is_takeover }
    }
}

impl Session {
    /// Begins to read the configuration file again; none: there is none.
    pub fn begin_reload(&self) -> Option<Reload> {
        if self.configuration.file.is_none() {
            log::info!("SIGHUP ignored: no configuration file is in force");
            return None;
        }
        Some(self.reload())
    }

    /// What is left to be read of the file since this session began: lists that may be long, where the datapath is defending
    /// already. None: nothing.
    pub fn take_due_reload(&mut self) -> Option<Reload> {
        mem::take(&mut self.configuration.lists_are_due).then(|| self.reload())
    }

    pub(super) fn reload(&self) -> Reload {
        Reload {
            root: self.root.clone(),
            path: self.configuration.file.clone(),
            settings: self.configuration.settings.clone(),
        }
    }

    /// Puts in force what was read. A file that makes no sense changes nothing.
    pub fn complete_reload(&mut self, read: Result<ConfigFile>) -> Result<Attached> {
        let _write = match self.turn()? {
            Turn::Ours(lock) => lock,
            Turn::Detached => return Ok(Attached::No),
            Turn::Theirs | Turn::Withheld => {
                log::error!("configuration file not read: another process is writing; try again");
                return Ok(Attached::Yes);
            }
        };
        self.read_sysctls()?;
        self.read_settings();
        let Some(path) = self.configuration.file.clone() else {
            read?;
            return Ok(Attached::Yes);
        };
        let settings = read.and_then(|file| {
            let names = file.interfaces.clone();
            Ok((reload::with_file(&self.configuration.settings, path.clone(), file)?.0, names))
        });
        match settings {
            Ok((settings, names)) => {
                self.report_new_interfaces(&names);
                state::settings::write(&self.owner.directory, &settings)?;
                self.configuration.settings = settings;
                self.write_config(self.maps.config.get(0)?)?;
                self.write_services()?;
                log::info!("{}: reloaded", path.display());
            }
            Err(error) => log::error!("{error:#}; settings unchanged"),
        }
        Ok(Attached::Yes)
    }

    /// Interfaces are attached at the start only: whoever adds one to the file learns what to do.
    fn report_new_interfaces(&self, names: &[String]) {
        let is_new = |name: &&String| !self.links.interfaces.contains(name);
        for name in names.iter().filter(is_new) {
            log::warn!(
                "{name} is in the file but not attached; restart, or `defender run --replace`, attaches it"
            );
        }
    }

    /// Takes in what `defender set` has changed meanwhile: services are never written by older settings. Where nothing can be
    /// read, what is in force stays so.
    pub(super) fn read_settings(&mut self) {
        let read = state::settings::read(&self.owner.directory);
        match self.owner.complaints.heard("settings", read) {
            Some(Some(settings)) => self.configuration.settings = settings,
            Some(None) => {
                let written = state::settings::write(&self.owner.directory, &self.configuration.settings);
                self.owner.complaints.heard("settings to write", written);
            }
            None => {}
        }
    }

    /// Takes over the lists that are there, reads those of the file, and puts who administers this host on the allow list.
    pub(super) fn begin_lists(
        &mut self,
        (allow, deny): &FileLists,
        administrator: Option<IpAddr>,
    ) -> Result<()> {
        let mut lists = Lists::of(&mut self.maps, &self.owner.directory);
        lists.adopt(administrator)?;
        // Where clients are defended already, nobody is to wait for long lists.
        if !self.configuration.lists_are_due {
            reload::report_changes(&lists.load_from_file(allow, deny)?);
        }
        let Some(address) = administrator else { return Ok(()) };
        match lists.admit(address) {
            Ok(Admission::Done) => log::info!(
                "your SSH address {address} is now on the allow list; `defender allow del {address}` removes it, \
                 --no-allow-ssh leaves it out"
            ),
            Ok(Admission::Listed(entry)) if entry.listing.list == List::Deny => log::warn!(
                "your SSH address {address} stays on the deny list, by {}; `defender allow add {address}` lets it in",
                entry.prefix
            ),
            Ok(Admission::Listed(entry)) => {
                log::info!("your SSH address {address} is already allowed by {}", entry.prefix);
            }
            Err(error) => {
                log::warn!("cannot allow your SSH address {address}: {error:#}");
            }
        }
        Ok(())
    }

    pub(super) fn write_config(&mut self, config: abi::Config) -> Result<()> {
        let flags = sysctls::config_flags(&self.host.sysctls) | config.flags & NOT_BY_SYSCTLS;
        let suspended = flags & abi::CONFIG_SUSPENDED;
        if suspended != config.flags & abi::CONFIG_SUSPENDED {
            if suspended != 0 {
                log::warn!("{}", sysctls::SUSPENDED);
            } else {
                log::info!("net.ipv4.tcp_syncookies is on again; challenging resumes");
            }
        }
        let wanted = abi::Config {
            flags,
            age_buckets: sysctls::age_buckets(&self.host.sysctls),
            conntrack_established_ms: sysctls::conntrack_established_ms(&self.host.sysctls),
            ..map_values::with_settings(&config, &self.configuration.settings)
        };
        if wanted != self.maps.config.get(0)? {
            self.maps.config.set(0, wanted)?;
        }
        Ok(())
    }
}

/// The settings with what the command line asks for.
fn asked_for(mut settings: Settings, mode: Option<Mode>, ports: Option<&[u16]>) -> Settings {
    if let Some(mode) = mode {
        settings.set.insert(Key::all(Setting::Mode), Value::Mode(mode));
    }
    if let Some(ports) = ports {
        settings.ports = ports.to_vec();
    }
    settings
}

/// What was in force, where something is attached.
fn before(root: &PinRoot, directory: &StateDirectory) -> Result<Settings> {
    let attached = !root.interfaces()?.is_empty();
    let before = if attached { state::settings::read(directory)? } else { None };
    Ok(before.unwrap_or_default())
}

/// The configuration file: the one that is named, that of the controller that is replaced, or the one at the usual place.
fn file_to_read(options: &SessionOptions, before: &Settings) -> Option<PathBuf> {
    let before = before.file.as_ref().map(|(path, _)| path.clone()).filter(|_| options.replace);
    options.config.clone().or(before).or_else(config_file::usual)
}

/// The interfaces to defend.
pub(super) fn interfaces(
    root: &PinRoot,
    directory: &StateDirectory,
    options: &SessionOptions,
) -> Result<Vec<String>> {
    if !options.interfaces.is_empty() {
        return Ok(options.interfaces.clone());
    }
    interface_choice::choose(root, file_to_read(options, &before(root, directory)?).as_deref())
}

/// What is asked for, on top of what was in force.
pub(super) fn read(
    root: &PinRoot,
    directory: &StateDirectory,
    options: &SessionOptions,
) -> Result<(Settings, FileLists)> {
    let before = before(root, directory)?;
    let path = file_to_read(options, &before);
    let mut settings = asked_for(before, options.mode, options.ports.as_deref());
    let Some(path) = path else {
        if let Some((path, _)) = settings.file.take() {
            log::info!("{} is no longer used: no --config was given", path.display());
        }
        settings.hook = None;
        settings.check().map_err(Problem::from)?;
        return Ok((settings, FileLists::default()));
    };
    // Other processes read it, with other working directories.
    let path = path::absolute(&path).with_context(|| format!("cannot find {}", path.display()))?;
    let file = config_file::read(&path)?;
    Ok(reload::with_file(&settings, path, file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_line_does_not_name_stays() {
        let before = asked_for(Settings::default(), Some(Mode::Always), Some(&[80, 443]));
        assert_eq!((before.mode(), before.ports.as_slice()), (Mode::Always, [80, 443].as_slice()));
        assert_eq!(asked_for(before.clone(), None, None), before);
        let after = asked_for(before, Some(Mode::Off), None);
        assert_eq!((after.mode(), after.ports.len()), (Mode::Off, 2));
    }

    #[test]
    fn lists_of_a_file_wait_where_clients_are_defended_already() {
        let file = Some((PathBuf::from("/etc/defender.toml"), Settings::default().set));
        let settings = Settings { file, ..Settings::default() };
        let configuration = Configuration::new(settings, true);
        assert!(configuration.lists_are_due && configuration.file == Some("/etc/defender.toml".into()));
        assert!(!Configuration::new(Settings::default(), false).lists_are_due);
    }
}
