//! What people can set, and where it is kept so that the controller and `defender set` agree.
//!
//! A value is looked up in layers: what was set for the port, what the file says for the port, what was set for all, what
//! the file says for all, the default.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        hooks::Hook,
        listen::Listen,
        mode::Mode,
        setting_table::{Setting, Value},
    },
    problem::Problem,
};

/// The name of one setting: for all ports, or for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The port; none: all that have no value of their own.
    pub port: Option<u16>,
    /// What is set.
    pub setting: Setting,
}

impl Key {
    /// The setting for all ports.
    pub const fn all(setting: Setting) -> Self {
        Self { port: None, setting }
    }

    /// The setting for one port.
    pub const fn of(port: u16, setting: Setting) -> Self {
        Self { port: Some(port), setting }
    }
}

impl FromStr for Key {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (port, name) = match text.split_once('.') {
            Some((port, name)) => (Some(port), name),
            None => (None, text),
        };
        let per_port = || Setting::names(Setting::is_per_port);
        let setting = Setting::named(name).ok_or_else(|| {
            let everywhere = Setting::names(|_| true);
            let per_port = per_port();
            Problem::Usage(format!(
                "there is no setting {text:?}: {everywhere}; for a port, as 443.mode: {per_port}"
            ))
        })?;
        let Some(port) = port else { return Ok(Self::all(setting)) };
        if !setting.is_per_port() {
            let per_port = per_port();
            return Err(Problem::Usage(format!("{name} is for all ports, not for one; for one: {per_port}")));
        }
        let port = parse_port(port).ok_or_else(|| {
            Problem::Usage(format!("unknown port {port:?}; expected 1-65535 or a service name"))
        })?;
        Ok(Self::of(port, setting))
    }
}

/// A port as keys have it.
pub fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{port}.{}", self.setting.name()),
            None => f.write_str(self.setting.name()),
        }
    }
}

/// Values from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Layer(BTreeMap<Key, Given>);

/// A value that somebody has given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    value: Value,
    /// In the unit it was given in.
    text: String,
}

impl Layer {
    /// The value of exactly this key.
    pub fn get(&self, key: Key) -> Option<Value> {
        self.0.get(&key).map(|given| given.value)
    }

    /// Sets a value.
    pub fn insert(&mut self, key: Key, value: Value) {
        self.0.insert(key, Given { value, text: key.setting.show(value) });
    }

    /// Sets a value as people write it; it is shown in the same unit.
    pub fn write(&mut self, key: Key, text: &str) -> Result<(), Problem> {
        let (value, text) = (key.setting.parse(text)?, key.setting.written(text));
        self.0.insert(key, Given { value, text });
        Ok(())
    }

    /// Removes a value.
    pub fn remove(&mut self, key: Key) {
        self.0.remove(&key);
    }

    /// The keys that have a value.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.keys().copied()
    }
}

impl TryFrom<BTreeMap<String, String>> for Layer {
    type Error = Problem;

    fn try_from(texts: BTreeMap<String, String>) -> Result<Self, Problem> {
        let mut layer = Self::default();
        for (key, text) in texts {
            layer.write(key.parse()?, &text)?;
        }
        Ok(layer)
    }
}

impl From<Layer> for BTreeMap<String, String> {
    fn from(layer: Layer) -> Self {
        layer.0.into_iter().map(|(key, given)| (key.to_string(), given.text)).collect()
    }
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What `defender set` and the command line have set.
    pub set: Layer,
    /// The file that `--config` names, and what it says.
    pub file: Option<(PathBuf, Layer)>,
    /// The ports to defend; empty: all that have a listener.
    pub ports: Vec<u16>,
    /// What the file has run for each event.
    #[serde(default)]
    pub hook: Option<Hook>,
    /// Where the file has metrics served; none: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Listen>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// `defender set`, or the command line.
    Set,
    /// This file.
    File(&'a Path),
    /// Nobody has said anything.
    Default,
}

impl Source<'_> {
    /// As programs know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::File(_) => "file",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set | Self::Default => f.write_str(self.name()),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A value in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce<'a> {
    /// The value; none: that depends on the host.
    pub value: Option<Value>,
    /// The value in the unit it was given in, if somebody has given it.
    text: Option<&'a str>,
    /// The key it was found under.
    pub key: Key,
    /// Where it comes from.
    pub source: Source<'a>,
}

impl InForce<'_> {
    /// The value as people write it, in the unit it was given in; `default`: that depends on the host.
    pub fn shown(&self) -> String {
        let default =
            || self.value.map_or_else(|| "default".to_owned(), |value| self.key.setting.show(value));
        self.text.map_or_else(default, str::to_owned)
    }
}

/// Two shares of the backlog that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The keys they were found under.
    pub keys: [Key; 2],
    /// What is wrong, and what to do.
    pub text: String,
}

impl From<Contradiction> for Problem {
    fn from(contradiction: Contradiction) -> Self {
        Self::Usage(contradiction.text)
    }
}

impl Settings {
    /// The value in force, and where it comes from.
    pub fn in_force(&self, key: Key) -> InForce<'_> {
        let keys = key.port.map(|_| key).into_iter().chain([Key::all(key.setting)]);
        let layers = || {
            let file = self.file.as_ref().map(|(path, layer)| (layer, Source::File(path)));
            [(&self.set, Source::Set)].into_iter().chain(file)
        };
        keys.flat_map(|key| layers().map(move |(layer, source)| (key, layer, source)))
            .find_map(|(key, layer, source)| {
                let given = layer.0.get(&key)?;
                Some(InForce { value: Some(given.value), text: Some(&given.text), key, source })
            })
            .unwrap_or_else(|| InForce {
                value: key.setting.default(),
                text: None,
                key: Key::all(key.setting),
                source: Source::Default,
            })
    }

    /// The mode of services whose port has none of its own.
    pub fn mode(&self) -> Mode {
        self.mode_by(Key::all(Setting::Mode))
    }

    /// The mode of services on `port`.
    pub fn mode_of(&self, port: u16) -> Mode {
        self.mode_by(Key::of(port, Setting::Mode))
    }

    fn mode_by(&self, key: Key) -> Mode {
        match self.in_force(key).value {
            Some(Value::Mode(mode)) => mode,
            _ => Mode::default(),
        }
    }

    /// The number in force of a setting that no port has of its own.
    pub fn global(&self, setting: Setting) -> u32 {
        self.number(Key::all(setting)).unwrap_or(0)
    }

    /// Every number that no port has of its own.
    pub fn globals(&self) -> BTreeMap<&'static str, u32> {
        let global = Setting::ALL.into_iter().filter(|setting| !setting.is_per_port());
        global.map(|setting| (setting.name(), self.global(setting))).collect()
    }

    /// The number in force on `port`; none: that depends on the host.
    pub fn on_port(&self, port: u16, setting: Setting) -> Option<u32> {
        self.number(Key::of(port, setting))
    }

    fn number(&self, key: Key) -> Option<u32> {
        match self.in_force(key).value {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Changes one setting. The value `default` removes what was set. On failure nothing has changed.
    pub fn set(&mut self, key: Key, value: &str) -> Result<(), Problem> {
        let mut next = self.clone();
        match value {
            "default" => next.set.remove(key),
            _ => next.set.write(key, value)?,
        }
        next.check()?;
        *self = next;
        Ok(())
    }

    /// Whether the values in force go together: end < start ≤ critical, everywhere.
    pub fn check(&self) -> Result<(), Contradiction> {
        let keys = self.own_keys();
        let ports = keys.iter().map(|key| key.port);
        for port in [None].into_iter().chain(ports) {
            self.check_pair(port, [Setting::End, Setting::Start], |end, start| end < start, "must be below")?;
            self.check_pair(
                port,
                [Setting::Start, Setting::Critical],
                |start, critical| start <= critical,
                "must not be above",
            )?;
        }
        Ok(())
    }

    fn check_pair(
        &self,
        port: Option<u16>,
        pair: [Setting; 2],
        fits: fn(u32, u32) -> bool,
        relation: &str,
    ) -> Result<(), Contradiction> {
        let found = pair.map(|setting| self.in_force(Key { port, setting }));
        let [Some(Value::Number(lower)), Some(Value::Number(upper))] = found.map(|found| found.value) else {
            return Ok(());
        };
        if fits(lower, upper) {
            return Ok(());
        }
        let [of_lower, of_upper] = [(0, lower), (1, upper)].map(|(at, value)| {
            format!("{} {} ({})", found[at].key, pair[at].show(Value::Number(value)), found[at].source)
        });
        let text = format!("{of_lower} {relation} {of_upper}; change one of them");
        Err(Contradiction { keys: found.map(|found| found.key), text })
    }

    /// The value of one setting, as people write it.
    pub fn get(&self, key: Key) -> String {
        self.in_force(key).shown()
    }

    /// The values in force that somebody has given, in one layer.
    pub fn merged(&self) -> Layer {
        let mut merged = self.file.as_ref().map(|(_, layer)| layer.clone()).unwrap_or_default();
        merged.0.extend(self.set.0.iter().map(|(key, given)| (*key, given.clone())));
        merged
    }

    /// Every setting that somebody has given a value; mode and reply budget in any case.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::all(Setting::Mode), Key::all(Setting::ReplyBudget)];
        let others = self.own_keys().into_iter().filter(|key| !keys.contains(key));
        let others: Vec<Key> = others.collect();
        keys.extend(others);
        keys
    }

    /// The keys that have a value in some layer, sorted.
    fn own_keys(&self) -> Vec<Key> {
        let file = self.file.iter().flat_map(|(_, layer)| layer.keys());
        let mut keys: Vec<Key> = self.set.keys().chain(file).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Setting = Setting::Start;

    fn key(text: &str) -> Key {
        text.parse().expect("a key")
    }

    fn with(values: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in values {
            settings.set(key(name), value).expect("a setting");
        }
        settings
    }

    #[test]
    fn wrong_keys_say_which_part_is_wrong() {
        let error = |text: &str| text.parse::<Key>().expect_err(text).to_string();
        assert!(
            error("99999.mode").starts_with("unknown port \"99999\"; expected 1-65535 or a service name")
        );
        assert!(
            error("https.mode").starts_with("unknown port \"https\"; expected 1-65535 or a service name")
        );
        let error = error("443.out_of_state_budget");
        assert!(error.starts_with("out_of_state_budget is for all ports, not for one"), "{error}");
        assert!(
            "443.mood".parse::<Key>().expect_err("unknown").to_string().starts_with("there is no setting")
        );
    }

    #[test]
    fn a_port_s_own_mode_wins() {
        let mut settings = with(&[("mode", "always"), ("443.mode", "off")]);
        assert_eq!((settings.mode_of(80), settings.mode_of(443)), (Mode::Always, Mode::Off));
        assert_eq!(settings.get(key("443.mode")), "off");
        settings.set(key("443.mode"), "default").expect("the word");
        assert_eq!(settings.mode_of(443), Mode::Always);
    }

    #[test]
    fn the_port_wins_over_all_and_what_was_set_over_the_file() {
        let path = Path::new("/etc/defender.toml");
        let mut settings = Settings::default();
        let mut expected = vec![(25, Source::Default)];
        settings.file = Some((path.to_owned(), with(&[("start", "30")]).set));
        expected.push((30, Source::File(path)));
        let mut seen = vec![Settings::default(), settings.clone()];
        settings.set(key("start"), "31").expect("a share");
        expected.push((31, Source::Set));
        seen.push(settings.clone());
        settings.file = Some((path.to_owned(), with(&[("start", "30"), ("443.start", "32")]).set));
        expected.push((32, Source::File(path)));
        seen.push(settings.clone());
        settings.set(key("443.start"), "33").expect("a share");
        expected.push((33, Source::Set));
        seen.push(settings);
        for (settings, (value, source)) in seen.iter().zip(expected) {
            let found = settings.in_force(Key::of(443, UP));
            assert_eq!((found.value, found.source), (Some(Value::Number(value)), source));
        }
        assert_eq!(seen[4].on_port(80, Setting::Start), Some(31));
    }

    #[test]
    fn keys_read_as_they_print() {
        for setting in Setting::ALL {
            assert_eq!(key(&Key::all(setting).to_string()), Key::all(setting));
            if setting.is_per_port() {
                assert_eq!(key(&Key::of(443, setting).to_string()), Key::of(443, setting));
            }
        }
        for wrong in ["", "modes", "x.mode", "0.mode", "65536.mode", "443", "443.budget", "443.reply_budget"]
        {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let mut settings = Settings::default();
        for (name, wrong) in [
            ("mode", "on"),
            ("reply_budget", "-1"),
            ("out_of_state_budget", "x"),
            ("443.start", "0"),
            ("end", "100"),
        ] {
            assert!(settings.set(key(name), wrong).is_err(), "{name} {wrong}");
        }
        assert_eq!(settings, Settings::default());
        settings.set(key("reply_budget"), "5").expect("a budget");
        settings.set(key("out_of_state_budget"), "0").expect("a budget");
        assert_eq!(
            (settings.global(Setting::ReplyBudget), settings.global(Setting::OutOfStateBudget)),
            (5, 0)
        );
    }

    #[test]
    fn shares_that_contradict_each_other_are_refused() {
        for (before, (name, wrong)) in [
            (vec![], ("start", "12")),
            (vec![], ("start", "76")),
            (vec![], ("critical", "24")),
            (vec![], ("end", "25")),
            (vec![("443.start", "70")], ("critical", "69")),
            (vec![("443.critical", "90"), ("443.start", "80")], ("443.critical", "default")),
        ] {
            let mut settings = with(&before);
            let unchanged = settings.clone();
            let error = settings.set(key(name), wrong).expect_err(name).to_string();
            assert!(error.contains("must") && error.contains('%'), "{error}");
            assert_eq!(settings, unchanged);
        }
        with(&[("start", "75"), ("end", "74")]);
    }

    #[test]
    fn the_list_has_what_somebody_said_and_the_two_that_all_ask_for() {
        let names = |settings: &Settings| settings.keys().iter().map(Key::to_string).collect::<Vec<_>>();
        assert_eq!(names(&Settings::default()), ["mode", "reply_budget"]);
        let settings = with(&[("443.start", "30%"), ("out_of_state", "5"), ("mode", "off")]);
        assert_eq!(names(&settings), ["mode", "reply_budget", "out_of_state", "443.start"]);
        assert_eq!(settings.get(key("443.start")), "30%");
        assert_eq!(settings.get(key("reply_limit")), "default");
    }

    #[test]
    fn values_are_shown_in_the_unit_they_were_given_in() {
        let mut settings = with(&[("443.min_active", "5m"), ("out_of_state", "10k"), ("min_active", "50")]);
        let shown = |settings: &Settings| {
            ["443.min_active", "80.min_active", "out_of_state", "rate_floor", "end"]
                .map(|name| settings.get(key(name)))
        };
        assert_eq!(shown(&settings), ["5m", "50", "10k", "1000", "12%"]);
        assert_eq!(settings.on_port(443, Setting::MinActive), Some(300));
        let text = serde_json::to_string(&settings).expect("JSON");
        settings = serde_json::from_str(&text).expect("settings");
        assert_eq!(shown(&settings), ["5m", "50", "10k", "1000", "12%"]);
    }

    #[test]
    fn settings_survive_a_file() {
        let mut settings = Settings {
            ports: vec![80, 443],
            metrics: "unix:/run/metrics".parse().ok(),
            ..with(&[("443.mode", "monitor"), ("start", "40")])
        };
        settings.file = Some(("/etc/defender.toml".into(), with(&[("80.end", "3")]).set));
        let text = serde_json::to_string(&settings).expect("JSON");
        assert_eq!(serde_json::from_str::<Settings>(&text).expect("settings"), settings);
        assert!(serde_json::from_str::<Settings>(r#"{"set": {"start": "x"}}"#).is_err());
    }
}
