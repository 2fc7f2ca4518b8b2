//! The configuration file: settings and lists of sources, in TOML.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{
    control::{
        lists::{entry::parse_prefix, file},
        settings::{Key, Layer, Setting, Settings, parse_port},
    },
    problem::Problem,
    report::cidr::Cidr,
};

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Settings.
    pub layer: Layer,
    /// Sources that are never challenged.
    pub allow: Vec<Cidr>,
    /// Sources that are always dropped.
    pub deny: Vec<Cidr>,
}

impl ConfigFile {
    /// Reads a file, and the lists that it names. Errors name file, line and column.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        parse(path, &text_of(path)?)
    }
}

fn text_of(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path)
        .map_err(|error| Problem::Configuration(format!("cannot read {}: {error}", path.display())))
}

fn parse(path: &Path, text: &str) -> Result<ConfigFile, Problem> {
    let mut reader = Reader { path, text, file: ConfigFile::default(), keys: Vec::new() };
    let table = DeTable::parse(text).map_err(|error| reader.wrong(error.span(), error.message()))?;
    reader.table(&table.into_inner())?;
    reader.check()?;
    Ok(reader.file)
}

type Table<'a> = DeTable<'a>;
type Item<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    file: ConfigFile,
    /// Where each setting is.
    keys: Vec<(Key, Range<usize>)>,
}

impl Reader<'_> {
    fn table(&mut self, table: &Table<'_>) -> Result<(), Problem> {
        for (name, item) in table {
            match (&**name.get_ref(), item.get_ref()) {
                ("port", DeValue::Table(ports)) => self.ports(ports)?,
                ("port", _) => {
                    return Err(self.wrong(Some(item.span()), "write a table for each port, as [port.443]"));
                }
                ("allow", _) => self.file.allow.extend(self.prefixes(item)?),
                ("deny", _) => self.file.deny.extend(self.prefixes(item)?),
                ("allow_file", _) => self.file.allow.extend(self.list(item)?),
                ("deny_file", _) => self.file.deny.extend(self.list(item)?),
                (text, _) => match setting(text) {
                    Some(setting) => self.setting(Key::all(setting), name.span(), item)?,
                    None => {
                        let lists = "allow, deny, allow_file, deny_file, [port.N]";
                        return Err(self.unknown(name, &format!("{}, {lists}", names(|_| true))));
                    }
                },
            }
        }
        Ok(())
    }

    fn ports(&mut self, ports: &Table<'_>) -> Result<(), Problem> {
        for (name, item) in ports {
            let text = name.get_ref();
            let Some(port) = parse_port(text) else {
                return Err(self.wrong(Some(name.span()), &format!("{text:?} is no port: 1 to 65535")));
            };
            let DeValue::Table(table) = item.get_ref() else {
                return Err(self.wrong(Some(item.span()), &format!("write a table, as [port.{port}]")));
            };
            for (name, item) in table {
                match setting(name.get_ref()).filter(|setting| setting.is_of_ports()) {
                    Some(setting) => self.setting(Key::of(port, setting), name.span(), item)?,
                    None => return Err(self.unknown(name, &names(Setting::is_of_ports))),
                }
            }
        }
        Ok(())
    }

    fn setting(&mut self, key: Key, span: Range<usize>, item: &Item<'_>) -> Result<(), Problem> {
        let value = match item.get_ref() {
            DeValue::String(text) => key.setting.parse(text),
            DeValue::Integer(number) => key.setting.parse(&decimal(number)),
            _ => {
                return Err(self.wrong(Some(item.span()), &format!("{key} takes a string or a whole number")));
            }
        };
        let value = value.map_err(|error| self.wrong(Some(item.span()), &error.to_string()))?;
        self.file.layer.insert(key, value);
        self.keys.push((key, span));
        Ok(())
    }

    fn prefixes(&self, item: &Item<'_>) -> Result<Vec<Cidr>, Problem> {
        let wrong = |item: &Item<'_>, what: &str| self.wrong(Some(item.span()), what);
        let DeValue::Array(items) = item.get_ref() else {
            return Err(wrong(item, "write an array of prefixes, as [\"192.0.2.0/24\"]"));
        };
        let prefix = |item: &Item<'_>| match item.get_ref() {
            DeValue::String(text) => parse_prefix(text).map_err(|error| wrong(item, &error.to_string())),
            _ => Err(wrong(item, "write a prefix as a string, as \"192.0.2.0/24\"")),
        };
        items.iter().map(prefix).collect()
    }

    /// The prefixes of another file, whose path begins at the directory of this one.
    fn list(&self, item: &Item<'_>) -> Result<Vec<Cidr>, Problem> {
        let DeValue::String(name) = item.get_ref() else {
            return Err(self.wrong(Some(item.span()), "write the path of a file as a string"));
        };
        let path: PathBuf = self.path.parent().unwrap_or(Path::new("")).join(&**name);
        // Of this file, its place is told as well.
        let text = text_of(&path).map_err(|error| self.wrong(Some(item.span()), &error.to_string()))?;
        file::parse(&path, &text)
    }

    /// Whether the shares of the backlog go together, as far as this file says.
    fn check(&self) -> Result<(), Problem> {
        let settings =
            Settings { file: Some((self.path.to_owned(), self.file.layer.clone())), ..Settings::default() };
        settings.check().map_err(|contradiction| {
            let place = self.keys.iter().find(|(key, _)| contradiction.keys.contains(key));
            self.wrong(place.map(|(_, span)| span.clone()), &contradiction.text)
        })
    }

    fn unknown(&self, name: &Spanned<impl AsRef<str>>, allowed: &str) -> Problem {
        let what = format!("there is no setting {:?} here: {allowed}", name.get_ref().as_ref());
        self.wrong(Some(name.span()), &what)
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

/// A number as people write it elsewhere: TOML allows other radices, too.
fn decimal(number: &DeInteger<'_>) -> String {
    i64::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

fn setting(name: &str) -> Option<Setting> {
    Setting::all().find(|setting| setting.name() == name)
}

fn names(wanted: fn(Setting) -> bool) -> String {
    let names: Vec<_> = Setting::all().filter(|setting| wanted(*setting)).map(Setting::name).collect();
    names.join(", ")
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
    use std::{env, net::IpAddr, process, time::Instant};

    use super::*;
    use crate::control::{settings::Mode, thresholds::Threshold};

    const PATH: &str = "/etc/defender/config.toml";

    fn read(text: &str) -> Result<ConfigFile, Problem> {
        parse(Path::new(PATH), text)
    }

    fn error(text: &str) -> String {
        read(text).expect_err(text).to_string()
    }

    /// A directory that goes when it is dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("defender-config-{name}-{}", process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn everything_is_read() {
        let file = read(
            "mode = \"auto\"\nreply_budget = 20000\nup = \"26%\"\ndown = 11\nrate_floor = 5_000\nstrays = 0x10\n\
             allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\ndeny = [\"198.51.100.0/24\"]\n\
             [port.443]\nmode = \"always\"\nup = \"30%\"\n[port.80]\ndanger = 80",
        )
        .expect("good");
        assert_eq!((file.allow.len(), file.deny.len()), (2, 1));
        let settings = Settings { file: Some((PATH.into(), file.layer)), ..Settings::default() };
        assert_eq!((settings.mode(), settings.mode_of(443)), (Mode::Auto, Mode::Always));
        assert_eq!(settings.reply_budget(), 20_000);
        let value = |port, threshold| settings.threshold(port, threshold).expect("a number");
        assert_eq!((value(443, Threshold::Up), value(80, Threshold::Up)), (30, 26));
        assert_eq!((value(443, Threshold::Danger), value(80, Threshold::Danger)), (75, 80));
        assert_eq!((value(80, Threshold::Down), value(80, Threshold::RateFloor)), (11, 5000));
        assert_eq!(value(443, Threshold::Strays), 16);
        assert_eq!(read("").expect("good"), ConfigFile::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_is_allowed() {
        for (text, place, words) in [
            ("mode = \"auto\"\nmood = 1", "2:1", "half_open_factor"),
            ("\n mode = \"on\"", "2:9", "monitor"),
            ("up = \"0%\"", "1:6", "1% to 100%"),
            ("up = 2.5", "1:6", "whole number"),
            ("up = -1", "1:6", "1% to 100%"),
            ("up = 99999999999999999999", "1:6", "1% to 100%"),
            ("reply_budget = true", "1:16", "whole number"),
            ("mode = ", "1:8", ""),
            ("up = 30\nup = 31", "2:1", "duplicate"),
            ("allow = \"192.0.2.0/24\"", "1:9", "array"),
            ("allow = [\"192.0.2.0/24\", \"192.0.2.0/33\"]", "1:26", "192.0.2.7"),
            ("deny = [7]", "1:9", "string"),
            ("deny_file = 7", "1:13", "path"),
            ("deny_file = \"/does/not/exist\"", "1:13", "/does/not/exist"),
            ("port = 443", "1:8", "[port.443]"),
            ("port.443 = 1", "1:12", "[port.443]"),
            ("[port.https]", "1:7", "65535"),
            ("[port.443]\nreply_budget = 1", "2:1", "strays"),
            ("[port.443]\nallow = []", "2:1", "strays"),
            ("danger = 20", "1:1", "must not be above"),
            ("[port.443]\nmin_active = 5\nup = 12", "3:1", "must be below"),
        ] {
            let error = error(text);
            assert!(
                error.starts_with(&format!("{PATH}:{place}: ")) && error.contains(words),
                "{text}\n{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn lists_are_read_from_beside_the_file() {
        let scratch = Scratch::new("lists");
        let path = scratch.0.join("config.toml");
        fs::write(&path, "allow = [\"192.0.2.1\"]\nallow_file = \"allow.txt\"\n").expect("a file");
        let list = scratch.0.join("allow.txt");
        fs::write(&list, "# all of them\n\n192.0.2.0/24 # ours\n  2001:db8::/32\r\n").expect("a file");
        assert_eq!(ConfigFile::read(&path).expect("good").allow.len(), 3);
        fs::write(&list, "192.0.2.0/24\n # a comment\n  192.0.2.x\n").expect("a file");
        let error = ConfigFile::read(&path).expect_err("a bad line").to_string();
        assert!(
            error.starts_with(&format!("{}:3:3: ", list.display())) && error.contains("192.0.2.x"),
            "{error}"
        );
    }

    #[test]
    fn a_million_lines_take_about_a_second() {
        let text: String = (0..1_000_000_u32)
            .map(|number| format!("{}/32\n", IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes())))
            .collect();
        let began = Instant::now();
        assert_eq!(file::parse(Path::new("list"), &text).expect("a list").len(), 1_000_000);
        // Unoptimised, on a slow and busy machine; looking at each line's predecessors would take hours.
        assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
    }
}
