//! Where the metrics are served: the value of `metrics.listen`. Pure.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{model::section_table::SectionKey, problem::Problem};

/// The setting in the configuration file.
const KEY: SectionKey = SectionKey::MetricsListen;
const UNIX: &str = "unix:";
/// The kernel takes no longer path (`sun_path`, with the zero at its end).
const LONGEST_PATH: usize = 107;

/// An address, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Over TCP.
    Tcp(SocketAddr),
    /// By a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse(text).ok_or_else(|| {
            let allowed = KEY.allowed();
            Problem::Usage(format!("{KEY} cannot be {text:?}; expected {allowed}, such as 127.0.0.1:9815"))
        })
    }
}

fn parse(text: &str) -> Option<Listen> {
    if let Some(path) = text.strip_prefix(UNIX) {
        let fits = Path::new(path).is_absolute() && path.len() <= LONGEST_PATH && !path.contains('\0');
        return fits.then(|| Listen::Unix(path.into()));
    }
    let address: SocketAddr = text.parse().ok()?;
    (address.port() != 0).then_some(Listen::Tcp(address))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_they_print() {
        for text in ["127.0.0.1:9815", "[::1]:9815", "0.0.0.0:1", "unix:/run/defender/metrics"] {
            assert_eq!(text.parse::<Listen>().expect("a place").to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_is_expected() {
        let long = format!("unix:/{}", "x".repeat(LONGEST_PATH));
        for text in ["", "9815", "localhost:9815", "127.0.0.1", "127.0.0.1:0", "unix:", "unix:metrics", &long]
        {
            let error = text.parse::<Listen>().expect_err(text).to_string();
            assert!(error.contains(&KEY.to_string()) && error.contains("unix:/PATH"), "{error}");
        }
    }
}
