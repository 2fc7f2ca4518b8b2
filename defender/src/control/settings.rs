//! What people can set, and where it is kept so that the controller and `defender set` agree.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::Result;
use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::{
    control::state::{self, StateDirectory},
    problem::Problem,
};

/// SYN-ACKs a second that one source prefix is answered, unless set otherwise.
pub const DEFAULT_REPLY_BUDGET: u32 = 10_000;

/// What is done to a service's SYNs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Watch in calm, challenge under attack (this version: watch only)
    #[default]
    Auto,
    /// Watch and count, never touch
    Monitor,
    /// Challenge every SYN
    Always,
    /// Leave alone
    Off,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Monitor, Self::Always, Self::Off];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Monitor => "monitor",
            Self::Always => "always",
            Self::Off => "off",
        }
    }

    /// As the maps hold it.
    pub const fn to_abi(self) -> u32 {
        match self {
            Self::Off => abi::MODE_OFF,
            Self::Monitor => abi::MODE_MONITOR,
            Self::Auto => abi::MODE_AUTO,
            Self::Always => abi::MODE_ALWAYS,
        }
    }

    /// From what the maps hold.
    pub fn from_abi(mode: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.to_abi() == mode)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| Problem::Usage(format!("{text:?} is no mode: auto, monitor, always or off")))
    }
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Mode of services whose port has none of its own.
    pub mode: Mode,
    /// Modes of ports.
    #[serde(default)]
    pub port_modes: BTreeMap<u16, Mode>,
    /// SYN-ACKs a second that one source prefix is answered; 0: no limit.
    pub reply_budget: u32,
    /// The ports to defend; empty: all that have a listener.
    #[serde(default)]
    pub ports: Vec<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            port_modes: BTreeMap::new(),
            reply_budget: DEFAULT_REPLY_BUDGET,
            ports: Vec::new(),
        }
    }
}

/// The name of one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `mode`
    Mode,
    /// `PORT.mode`
    PortMode(u16),
    /// `reply_budget`
    ReplyBudget,
}

impl FromStr for Key {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let unknown =
            || Problem::Usage(format!("there is no setting {text:?}: mode, PORT.mode or reply_budget"));
        match text {
            "mode" => Ok(Self::Mode),
            "reply_budget" => Ok(Self::ReplyBudget),
            _ => match text.strip_suffix(".mode").ok_or_else(unknown)?.parse() {
                Ok(0) | Err(_) => Err(unknown()),
                Ok(port) => Ok(Self::PortMode(port)),
            },
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode => f.write_str("mode"),
            Self::PortMode(port) => write!(f, "{port}.mode"),
            Self::ReplyBudget => f.write_str("reply_budget"),
        }
    }
}

impl Settings {
    /// What was set last; none where nobody has set anything.
    pub fn read(directory: &StateDirectory) -> Result<Option<Self>> {
        state::read(&directory.settings())
    }

    /// Keeps the settings for other processes, and for a controller to come.
    pub fn write(&self, directory: &StateDirectory) -> Result<()> {
        state::write(&directory.settings(), self)
    }

    /// The mode of services on `port`.
    pub fn mode_of(&self, port: u16) -> Mode {
        self.port_modes.get(&port).copied().unwrap_or(self.mode)
    }

    /// Changes one setting. The value `default` removes a port's own mode.
    pub fn set(&mut self, key: Key, value: &str) -> Result<(), Problem> {
        match key {
            Key::Mode => self.mode = value.parse()?,
            Key::PortMode(port) if value == "default" => {
                self.port_modes.remove(&port);
            }
            Key::PortMode(port) => {
                self.port_modes.insert(port, value.parse()?);
            }
            Key::ReplyBudget => {
                self.reply_budget = value.parse().map_err(|_| {
                    Problem::Usage(format!("{value:?} is no number of SYN-ACKs a second (0: no limit)"))
                })?;
            }
        }
        Ok(())
    }

    /// The value of one setting.
    pub fn get(&self, key: Key) -> String {
        match key {
            Key::Mode => self.mode.to_string(),
            Key::PortMode(port) => self.mode_of(port).to_string(),
            Key::ReplyBudget => self.reply_budget.to_string(),
        }
    }

    /// Every setting that has a value.
    pub fn keys(&self) -> Vec<Key> {
        let ports = self.port_modes.keys().map(|port| Key::PortMode(*port));
        [Key::Mode, Key::ReplyBudget].into_iter().chain(ports).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_s_own_mode_wins() {
        let mut settings = Settings::default();
        settings.set("mode".parse().expect("a key"), "always").expect("a mode");
        settings.set("443.mode".parse().expect("a key"), "off").expect("a mode");
        assert_eq!((settings.mode_of(80), settings.mode_of(443)), (Mode::Always, Mode::Off));
        assert_eq!(settings.get(Key::PortMode(443)), "off");
        settings.set(Key::PortMode(443), "default").expect("the word");
        assert_eq!(settings.mode_of(443), Mode::Always);
    }

    #[test]
    fn keys_read_as_they_print() {
        for key in [Key::Mode, Key::PortMode(443), Key::ReplyBudget] {
            assert_eq!(key.to_string().parse::<Key>().expect("a key"), key);
        }
        for wrong in ["", "modes", "x.mode", "0.mode", "65536.mode", "443", "443.budget"] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let mut settings = Settings::default();
        assert!(settings.set(Key::Mode, "on").is_err());
        assert!(settings.set(Key::ReplyBudget, "-1").is_err());
        assert!(settings.set(Key::ReplyBudget, "0").is_ok());
        assert_eq!(settings.reply_budget, 0);
    }

    #[test]
    fn settings_survive_a_file() {
        let mut settings = Settings { ports: vec![80, 443], ..Settings::default() };
        settings.set(Key::PortMode(443), "monitor").expect("a mode");
        let text = serde_json::to_string(&settings).expect("JSON");
        assert_eq!(serde_json::from_str::<Settings>(&text).expect("settings"), settings);
    }
}
