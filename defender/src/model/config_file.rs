//! The configuration file: settings, lists of sources, interfaces and hooks, in TOML.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{
    model::{
        hooks::{DEFAULT_TIMEOUT, Hook, TIMEOUTS},
        listen::Listen,
        lists::{
            entry::{List, parse_prefix},
            file::{FileLists, Prefixes},
            note::{Comment, Note},
            plan,
        },
        prefix::Cidr,
        section_table::SectionKey,
        setting_table::Setting,
        settings::{Key, Layer, Settings, parse_port},
        timestamp::Moment,
    },
    problem::Problem,
};

/// What is wrong with a value that has to be a string.
const NO_STRING: &str = "not a string";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Settings.
    pub layer: Layer,
    /// Where metrics are served.
    pub metrics: Option<Listen>,
    /// Sources that are never challenged, and that are always dropped.
    pub lists: FileLists,
    /// The interfaces to defend; empty: those with a default route.
    pub interfaces: Vec<String>,
    /// What is run for each event.
    pub hook: Option<Hook>,
}

impl ConfigFile {
    /// Reads the text of a file that is, or would be, at `path`. `read_list` reads the lists that it names. Errors name file,
    /// line and column.
    pub fn parse(path: &Path, text: &str, read_list: &ReadList<'_>) -> Result<Self, Problem> {
        let mut reader = Reader {
            path,
            text,
            read_list,
            file: Self::default(),
            keys: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
        };
        let table = DeTable::parse(text).map_err(|error| reader.wrong(error.span(), error.message()))?;
        reader.table(&table.into_inner())?;
        reader.check()?;
        Ok(reader.finish())
    }

    /// Everything but the lists, which may be long.
    pub fn without_lists(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            metrics: self.metrics.clone(),
            interfaces: self.interfaces.clone(),
            hook: self.hook.clone(),
            ..Self::default()
        }
    }
}

/// Reads a file of prefixes.
pub type ReadList<'a> = dyn Fn(&Path) -> Result<Prefixes, Problem> + 'a;

/// A configuration file may have so many bytes. Lists of more prefixes have files of their own.
pub const MOST_BYTES: u64 = 64 << 20;

type Table<'a> = DeTable<'a>;
type Item<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    read_list: &'a ReadList<'a>,
    file: ConfigFile,
    /// Where each setting is.
    keys: Vec<(Key, Range<usize>)>,
    /// How long a hook may take, wherever that stands.
    timeout: Duration,
}

impl Reader<'_> {
    fn table(&mut self, table: &Table<'_>) -> Result<(), Problem> {
        for (name, item) in table {
            match (&**name.get_ref(), item.get_ref()) {
                ("port", DeValue::Table(ports)) => self.ports(ports)?,
                ("port", _) => {
                    return Err(
                        self.wrong(Some(item.span()), "expected a table for each port, such as [port.443]")
                    );
                }
                ("allow", _) => self.take(List::Allow, self.prefixes(item)?),
                ("deny", _) => self.take(List::Deny, self.prefixes(item)?),
                ("allow_file", _) => self.take(List::Allow, self.list(item)?),
                ("deny_file", _) => self.take(List::Deny, self.list(item)?),
                (text, _) if !SectionKey::of(text).is_empty() => self.section(text, item)?,
                (text, _) => match Setting::named(text) {
                    Some(setting) => self.setting(Key::all(setting), name.span(), item)?,
                    None => {
                        let (settings, sections) = (Setting::names(|_| true), SectionKey::sections());
                        let others = "allow, deny, allow_file, deny_file, [port.N]";
                        return Err(self.unknown(name, &format!("{settings}, {others}, {sections}")));
                    }
                },
            }
        }
        Ok(())
    }

    fn take(&mut self, list: List, read: Prefixes) {
        let lists = &mut self.file.lists;
        match list {
            List::Allow => lists.allow.extend(read.prefixes),
            List::Deny => lists.deny.extend(read.prefixes),
        }
        lists.notes.extend(read.notes);
    }

    fn ports(&mut self, ports: &Table<'_>) -> Result<(), Problem> {
        for (name, item) in ports {
            let text = name.get_ref();
            let Some(port) = parse_port(text) else {
                return Err(
                    self.wrong(Some(name.span()), &format!("unknown port {text:?}; expected 1 to 65535"))
                );
            };
            let DeValue::Table(table) = item.get_ref() else {
                return Err(
                    self.wrong(Some(item.span()), &format!("expected a table, such as [port.{port}]"))
                );
            };
            for (name, item) in table {
                match Setting::named(name.get_ref()).filter(|setting| setting.is_per_port()) {
                    Some(setting) => self.setting(Key::of(port, setting), name.span(), item)?,
                    None => return Err(self.unknown(name, &Setting::names(Setting::is_per_port))),
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, section: &str, item: &Item<'_>) -> Result<(), Problem> {
        let DeValue::Table(table) = item.get_ref() else {
            return Err(self.wrong(Some(item.span()), &format!("expected a table: [{section}]")));
        };
        let known = SectionKey::of(section);
        for (name, item) in table {
            match known.iter().find(|key| key.name() == name.get_ref()) {
                Some(SectionKey::Interfaces) => self.file.interfaces = self.interfaces(item)?,
                Some(SectionKey::OnEvent) => {
                    let command = self.command(item)?;
                    self.file.hook = Some(Hook { command, timeout: DEFAULT_TIMEOUT });
                }
                Some(SectionKey::HookTimeout) => self.timeout = self.hook_timeout(item)?,
                Some(SectionKey::MetricsListen) => self.file.metrics = Some(self.listen(item)?),
                None => {
                    let names: Vec<_> = known.iter().map(|key| key.name()).collect();
                    return Err(self.unknown(name, &names.join(", ")));
                }
            }
        }
        Ok(())
    }

    fn interfaces(&self, item: &Item<'_>) -> Result<Vec<String>, Problem> {
        let names = self.strings(SectionKey::Interfaces, item)?;
        if names.is_empty() {
            return Err(self.expected(SectionKey::Interfaces, item, "none is named"));
        }
        match names.iter().find(|name| !is_interface_name(name)) {
            Some(wrong) => Err(self.expected(
                SectionKey::Interfaces,
                item,
                &format!("no interface can be called {wrong:?}"),
            )),
            None => Ok(names),
        }
    }

    fn command(&self, item: &Item<'_>) -> Result<Vec<String>, Problem> {
        let command = self.strings(SectionKey::OnEvent, item)?;
        match command.first() {
            Some(program) if program.starts_with('/') && !command.iter().any(|word| word.contains('\0')) => {
                Ok(command)
            }
            Some(program) => {
                Err(self.expected(SectionKey::OnEvent, item, &format!("{program:?} is no absolute path")))
            }
            None => Err(self.expected(SectionKey::OnEvent, item, "it is empty")),
        }
    }

    fn hook_timeout(&self, item: &Item<'_>) -> Result<Duration, Problem> {
        let wrong = |why| self.expected(SectionKey::HookTimeout, item, why);
        let time = match item.get_ref() {
            DeValue::Integer(number) => decimal(number).parse().ok().map(Duration::from_secs),
            DeValue::String(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        let time = time.ok_or_else(|| wrong("not a time"))?;
        let [least, most] = TIMEOUTS;
        if (least..=most).contains(&time) { Ok(time) } else { Err(wrong("out of range")) }
    }

    fn listen(&self, item: &Item<'_>) -> Result<Listen, Problem> {
        let DeValue::String(text) = item.get_ref() else {
            return Err(self.expected(SectionKey::MetricsListen, item, NO_STRING));
        };
        text.parse().map_err(|error: Problem| self.wrong(Some(item.span()), &error.to_string()))
    }

    fn strings(&self, key: SectionKey, item: &Item<'_>) -> Result<Vec<String>, Problem> {
        let DeValue::Array(items) = item.get_ref() else {
            return Err(self.expected(key, item, "not an array"));
        };
        let string = |item: &Item<'_>| match item.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.expected(key, item, NO_STRING)),
        };
        items.iter().map(string).collect()
    }

    fn expected(&self, key: SectionKey, item: &Item<'_>, why: &str) -> Problem {
        self.wrong(Some(item.span()), &format!("{key}: {why}; expected {}", key.allowed()))
    }

    /// All has been read.
    fn finish(self) -> ConfigFile {
        let mut file = self.file;
        if let Some(hook) = &mut file.hook {
            hook.timeout = self.timeout;
        }
        file
    }

    fn setting(&mut self, key: Key, span: Range<usize>, item: &Item<'_>) -> Result<(), Problem> {
        let written = match item.get_ref() {
            DeValue::String(text) => self.file.layer.write(key, text),
            DeValue::Integer(number) => self.file.layer.write(key, &decimal(number)),
            _ => {
                return Err(
                    self.wrong(Some(item.span()), &format!("expected a string or a whole number for {key}"))
                );
            }
        };
        written.map_err(|error| self.wrong(Some(item.span()), &error.to_string()))?;
        self.keys.push((key, span));
        Ok(())
    }

    fn prefixes(&self, item: &Item<'_>) -> Result<Prefixes, Problem> {
        let DeValue::Array(items) = item.get_ref() else {
            return Err(self.at(item, "expected an array of prefixes, such as [\"192.0.2.0/24\"]"));
        };
        let mut read = Prefixes::default();
        for item in items {
            let prefix = match item.get_ref() {
                DeValue::String(_) => self.prefix(item)?,
                DeValue::Table(table) => {
                    let (prefix, note) = self.noted_prefix(item, table)?;
                    read.notes.insert(prefix, note);
                    prefix
                }
                _ => return Err(self.at(item, "expected a prefix as a string, such as \"192.0.2.0/24\"")),
            };
            read.prefixes.push(prefix);
        }
        Ok(read)
    }

    fn prefix(&self, item: &Item<'_>) -> Result<Cidr, Problem> {
        let text = self.string(item)?;
        parse_prefix(text).map_err(|error| self.at(item, &error.to_string()))
    }

    /// A prefix with comment or time of expiry, as a table.
    fn noted_prefix(&self, item: &Item<'_>, table: &Table<'_>) -> Result<(Cidr, Note), Problem> {
        let (mut prefix, mut note) = (None, Note::default());
        for (name, item) in table {
            match &**name.get_ref() {
                "prefix" => prefix = Some(self.prefix(item)?),
                "comment" => {
                    let comment = Comment::parse(self.string(item)?);
                    note.comment = comment.map_err(|error| self.at(item, &error.to_string()))?;
                }
                "expires" => note.expires = Some(self.expiry(item)?),
                _ => return Err(self.unknown(name, "prefix, comment, expires")),
            }
        }
        let example = "expected a prefix, such as { prefix = \"192.0.2.0/24\", comment = \"why\" }";
        Ok((prefix.ok_or_else(|| self.at(item, example))?, note))
    }

    /// A time: a duration would begin anew whenever the file is read.
    fn expiry(&self, item: &Item<'_>) -> Result<u64, Problem> {
        let text = match item.get_ref() {
            DeValue::Datetime(time) => time.to_string(),
            _ => self.string(item)?.to_owned(),
        };
        match text.parse() {
            Ok(Moment::At(time)) => Ok(time),
            _ => Err(self.at(item, "expected a time, such as \"2026-01-31T12:00:00Z\"")),
        }
    }

    fn string<'a>(&self, item: &'a Item<'_>) -> Result<&'a str, Problem> {
        match item.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.at(item, "expected a string")),
        }
    }

    /// The prefixes of another file, whose path begins at the directory of this one.
    fn list(&self, item: &Item<'_>) -> Result<Prefixes, Problem> {
        let DeValue::String(name) = item.get_ref() else {
            return Err(self.wrong(Some(item.span()), "expected a path as a string"));
        };
        let path: PathBuf = self.path.parent().unwrap_or(Path::new("")).join(&**name);
        // Where that file cannot be read, the message names the place in this one.
        (self.read_list)(&path).map_err(|error| match error.to_string() {
            text if text.starts_with("cannot read") => self.wrong(Some(item.span()), &text),
            _ => error,
        })
    }

    /// Whether the shares of the backlog go together, as far as this file says.
    fn check(&self) -> Result<(), Problem> {
        let settings =
            Settings { file: Some((self.path.to_owned(), self.file.layer.clone())), ..Settings::default() };
        settings.check().map_err(|contradiction| {
            let place = self.keys.iter().find(|(key, _)| contradiction.keys.contains(key));
            self.wrong(place.map(|(_, span)| span.clone()), &contradiction.text)
        })?;
        plan::check(&self.file.lists).map_err(|error| self.wrong(None, &error.to_string()))
    }

    fn unknown(&self, name: &Spanned<impl AsRef<str>>, allowed: &str) -> Problem {
        let what = format!("unknown key {:?}; expected {allowed}", name.get_ref().as_ref());
        self.wrong(Some(name.span()), &what)
    }

    fn at(&self, item: &Item<'_>, what: &str) -> Problem {
        self.wrong(Some(item.span()), what)
    }

    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> Problem {
        let place = span.map_or_else(String::new, |span| {
            let (line, column) = place(self.text, span.start);
            format!(":{line}:{column}")
        });
        // The parser's own messages may have several lines.
        let what: Vec<&str> = what.lines().map(str::trim).collect();
        Problem::Configuration(format!("{}{place}: {}", self.path.display(), what.join("; ")))
    }
}

/// Whether the kernel takes this name (net/core/dev.c, `dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    const SIZE: usize = 16;
    let forbidden = |letter: char| letter == '/' || letter == ':' || letter.is_ascii_whitespace();
    !name.is_empty() && name.len() < SIZE && !matches!(name, "." | "..") && !name.contains(forbidden)
}

/// A number as people write it elsewhere: TOML allows other radices, too.
fn decimal(number: &DeInteger<'_>) -> String {
    i64::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

/// Line and column of a place in a text, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[begins..]).chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{mode::Mode, setting_table::Setting};

    const PATH: &str = "/etc/defender/config.toml";

    fn read(text: &str) -> Result<ConfigFile, Problem> {
        let missing =
            |path: &Path| Err(Problem::Configuration(format!("cannot read {}: missing", path.display())));
        ConfigFile::parse(Path::new(PATH), text, &missing)
    }

    fn error(text: &str) -> String {
        read(text).expect_err(text).to_string()
    }

    #[test]
    fn everything_is_read() {
        let file = read(
            "mode = \"auto\"\nreply_budget = 20000\nstart = \"26%\"\nend = 11\nrate_floor = 5_000\nout_of_state = 0x10\n\
             allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\ndeny = [\"198.51.100.0/24\"]\n\
             [metrics]\nlisten = \"[::1]:9815\"\n[port.443]\nmode = \"always\"\nstart = \"30%\"\n[port.80]\ncritical = 80",
        )
        .expect("good");
        assert_eq!((file.lists.allow.len(), file.lists.deny.len()), (2, 1));
        let settings = Settings { file: Some((PATH.into(), file.layer)), ..Settings::default() };
        assert_eq!((settings.mode(), settings.mode_of(443)), (Mode::Auto, Mode::Always));
        assert_eq!(settings.global(Setting::ReplyBudget), 20_000);
        let value = |port, threshold| settings.on_port(port, threshold).expect("a number");
        assert_eq!((value(443, Setting::Start), value(80, Setting::Start)), (30, 26));
        assert_eq!((value(443, Setting::Critical), value(80, Setting::Critical)), (75, 80));
        assert_eq!((value(80, Setting::End), value(80, Setting::RateFloor)), (11, 5000));
        assert_eq!(value(443, Setting::OutOfState), 16);
        assert_eq!(file.metrics.expect("a place").to_string(), "[::1]:9815");
        assert_eq!(read("").expect("good"), ConfigFile::default());
    }

    #[test]
    fn prefixes_may_have_a_comment_and_a_time_of_expiry() {
        let file = read(
            "allow = [{ prefix = \"192.0.2.7\", comment = \"office\" }, \"192.0.2.8\"]\n\
             deny = [{ prefix = \"192.0.2.9\", expires = 1970-01-01T00:00:07Z }, \
             { prefix = \"192.0.2.10\", expires = \"1970-01-01T00:00:08.5Z\", comment = \"\" }]",
        )
        .expect("good");
        assert_eq!((file.lists.allow.len(), file.lists.deny.len()), (2, 2));
        let note = |prefix: &str| file.lists.notes.get(&prefix.parse().expect(prefix)).cloned();
        let office = Comment::parse("office").expect("good");
        assert_eq!(note("192.0.2.7"), Some(Note { comment: office, expires: None }));
        assert_eq!(note("192.0.2.8"), None);
        assert_eq!(note("192.0.2.9"), Some(Note { comment: None, expires: Some(7000) }));
        assert_eq!(note("192.0.2.10"), Some(Note { comment: None, expires: Some(8500) }));
    }

    #[test]
    fn interfaces_and_hooks_have_sections() {
        let file = read(
            "[hooks]\ntimeout = \"2m\"\non_event = [\"/usr/bin/logger\", \"-t\", \"syn flood\"]\n\
             [interfaces]\nnames = [\"eth0\", \"bond0.7\"]\n",
        )
        .expect("good");
        let command = ["/usr/bin/logger", "-t", "syn flood"].map(str::to_owned).into();
        assert_eq!(file.hook, Some(Hook { command, timeout: Duration::from_secs(120) }));
        assert_eq!(file.interfaces, ["eth0", "bond0.7"]);
        let file = read("hooks.on_event = [\"/bin/true\"]").expect("good");
        assert_eq!(file.hook.map(|hook| hook.timeout), Some(DEFAULT_TIMEOUT));
        assert!(read("[hooks]\ntimeout = 20\n").expect("good").hook.is_none());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_is_allowed() {
        for (text, place, words) in [
            ("mode = \"auto\"\nmood = 1", "2:1", "half_open_factor"),
            ("\n mode = \"on\"", "2:9", "monitor"),
            ("start = \"0%\"", "1:9", "1% to 100%"),
            ("start = 2.5", "1:9", "whole number"),
            ("start = -1", "1:9", "1% to 100%"),
            ("start = 99999999999999999999", "1:9", "1% to 100%"),
            ("reply_budget = true", "1:16", "whole number"),
            ("mode = ", "1:8", ""),
            ("start = 30\nstart = 31", "2:1", "duplicate"),
            ("allow = \"192.0.2.0/24\"", "1:9", "array"),
            ("allow = [\"192.0.2.0/24\", \"192.0.2.0/33\"]", "1:26", "192.0.2.7"),
            ("deny = [7]", "1:9", "string"),
            ("deny = [{ comment = \"why\" }]", "1:9", "expected a prefix"),
            ("deny = [{ prefix = 7 }]", "1:20", "expected a string"),
            ("deny = [{ prefix = \"192.0.2.0/33\" }]", "1:20", "192.0.2.7"),
            ("deny = [{ prefix = \"192.0.2.7\", why = \"x\" }]", "1:33", "comment, expires"),
            ("deny = [{ prefix = \"192.0.2.7\", comment = \"a\\nb\" }]", "1:43", "line break"),
            ("deny = [{ prefix = \"192.0.2.7\", expires = \"1h\" }]", "1:43", "2026-01-31T12:00:00Z"),
            ("deny = [{ prefix = \"192.0.2.7\", expires = 2026-01-31 }]", "1:43", "2026-01-31T12:00:00Z"),
            ("deny_file = 7", "1:13", "path"),
            ("deny_file = \"/does/not/exist\"", "1:13", "/does/not/exist"),
            ("port = 443", "1:8", "[port.443]"),
            ("port.443 = 1", "1:12", "[port.443]"),
            ("metrics = true", "1:11", "[metrics]"),
            ("[metrics]\nlisten = 9815", "2:10", "listen: not a string; expected ADDRESS:PORT"),
            ("[metrics]\nlisten = \"localhost:9815\"", "2:10", "127.0.0.1:9815"),
            ("metrics.path = \"/\"", "1:9", "expected listen"),
            ("[port.https]", "1:7", "65535"),
            ("[port.443]\nreply_budget = 1", "2:1", "out_of_state"),
            ("[port.443]\nallow = []", "2:1", "out_of_state"),
            ("critical = 20", "1:1", "must not be above"),
            ("[port.443]\nmin_active = 5\nstart = 12", "3:1", "must be below"),
            ("interfaces = [\"eth0\"]", "1:14", "[interfaces]"),
            ("[interfaces]\niface = []", "2:1", "names"),
            ("[interfaces]\nnames = []", "2:9", "none is named"),
            ("[interfaces]\nnames = [\"eth0\", \"eth0/1\"]", "2:9", "eth0/1"),
            ("[interfaces]\nnames = [\"averyveryverylongname\"]", "2:9", "averyveryverylongname"),
            (
                "[interfaces]\nnames = [1]",
                "2:10",
                "names: not a string; expected an array of interface names",
            ),
            (
                "[interfaces]\nnames = \"eth0\"",
                "2:9",
                "names: not an array; expected an array of interface names",
            ),
            ("[hooks]\non_event = \"/bin/true\"", "2:12", "on_event: not an array; expected an array"),
            ("[hooks]\non_event = [\"true\"]", "2:12", "absolute path"),
            ("[hooks]\non_event = []", "2:12", "empty"),
            ("[hooks]\ntimeout = 0", "2:11", "timeout: out of range; expected a time from 1s to 1h"),
            ("[hooks]\ntimeout = \"soon\"", "2:11", "timeout: not a time; expected a time from 1s to 1h"),
            ("[hooks]\ntimeout = true", "2:11", "timeout: not a time; expected a time from 1s to 1h"),
            ("[hooks]\ntimeout = \"2h\"", "2:11", "1s to 1h"),
            ("[hooks]\non_end = []", "2:1", "on_event, timeout"),
        ] {
            let error = error(text);
            assert!(
                error.starts_with(&format!("{PATH}:{place}: ")) && error.contains(words),
                "{text}\n{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
