//! What is done to SYNs, as people choose it.

use std::{fmt, str::FromStr};

use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// What is done to a service's SYNs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Let SYNs pass; challenge them during a flood
    #[default]
    Auto,
    /// Watch and count; challenge and drop nothing
    Monitor,
    /// Challenge every SYN
    Always,
    /// Ignore the service
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
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            Problem::Usage(format!("unknown mode {text:?}; expected auto, monitor, always or off"))
        })
    }
}
