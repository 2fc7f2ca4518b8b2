//! What is in force, as a configuration file. Pure.
//!
//! What a file cannot hold is said in its first line: interfaces and `--port` belong to the command line.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::model::{
    hooks::Hook,
    lists::{
        entry::{Entry, List, Origin},
        note::Notes,
    },
    section_table::SectionKey,
    settings::{Key, Settings},
    timestamp::rfc3339,
};

/// The file. Prefixes are left out that the start of a controller lists by itself.
pub fn export(settings: &Settings, entries: &[Entry], notes: &Notes, interfaces: &[String]) -> String {
    let mut text = first_line(settings, interfaces);
    let layer = settings.merged();
    let mut ports: BTreeMap<u16, Vec<Key>> = BTreeMap::new();
    for key in layer.keys() {
        match key.port {
            Some(port) => ports.entry(port).or_default().push(key),
            None => text.push_str(&line(settings, key)),
        }
    }
    if let Some(listen) = &settings.metrics {
        let _ = writeln!(text, "{} = {}", SectionKey::MetricsListen, quoted(&listen.to_string()));
    }
    for list in [List::Allow, List::Deny] {
        text.push_str(&prefixes(list, entries, notes));
    }
    // Tables come last: what follows one's name is in it.
    for (port, keys) in ports {
        let _ = writeln!(text, "\n[port.{port}]");
        keys.into_iter().for_each(|key| text.push_str(&line(settings, key)));
    }
    text.push_str(&settings.hook.as_ref().map(section).unwrap_or_default());
    text
}

/// The section of hooks.
fn section(hook: &Hook) -> String {
    let words: Vec<String> = hook.command.iter().map(|word| quoted(word)).collect();
    let timeout = humantime::format_duration(hook.timeout);
    format!("\n[hooks]\non_event = [{}]\ntimeout = \"{timeout}\"\n", words.join(", "))
}

/// A string of JSON is one of TOML as well, but for DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn first_line(settings: &Settings, interfaces: &[String]) -> String {
    let ports: Vec<String> = settings.ports.iter().map(u16::to_string).collect();
    let ports = if ports.is_empty() { String::new() } else { format!(" --port {}", ports.join(",")) };
    format!("# defender run --iface {}{ports} --config THIS_FILE\n", interfaces.join(","))
}

fn line(settings: &Settings, key: Key) -> String {
    format!("{} = \"{}\"\n", key.setting.name(), settings.get(key))
}

fn prefixes(list: List, entries: &[Entry], notes: &Notes) -> String {
    let is_kept = |entry: &&Entry| entry.listing.list == list && entry.listing.origin != Origin::Session;
    let mut text = String::new();
    for entry in entries.iter().filter(is_kept) {
        if text.is_empty() {
            let _ = writeln!(text, "{} = [", list.name());
        }
        let _ = writeln!(text, "    {},", prefix(entry, notes));
    }
    if !text.is_empty() {
        text.push_str("]\n");
    }
    text
}

fn prefix(entry: &Entry, notes: &Notes) -> String {
    let prefix = format!("\"{}\"", entry.prefix);
    let Some(note) = notes.get(&entry.prefix).filter(|_| entry.listing.noted) else { return prefix };
    let comment = note.comment.as_ref().map(|comment| format!("comment = {}", quoted(comment.as_str())));
    let expires = note.expires.map(|expires| format!("expires = \"{}\"", rfc3339(expires)));
    let noted: Vec<String> = [comment, expires].into_iter().flatten().collect();
    format!("{{ prefix = {prefix}, {} }}", noted.join(", "))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::model::{
        config_file::ConfigFile,
        lists::{
            entry::Listing,
            file::{FileLists, Prefixes},
            note::{Comment, Note},
        },
        prefix::Cidr,
        setting_table::{Setting, Value},
        settings::Layer,
        timestamp::LATEST,
    };

    fn entry(text: &str, list: List, origin: Origin) -> Entry {
        Entry { prefix: text.parse().expect("a prefix"), listing: Listing::new(list, origin) }
    }

    fn read(text: &str) -> ConfigFile {
        ConfigFile::parse(Path::new("exported"), text, &|_| Ok(Prefixes::default())).expect(text)
    }

    #[test]
    fn a_file_for_people() {
        let mut settings = Settings { ports: vec![80, 443], ..Settings::default() };
        for (key, value) in [("mode", "always"), ("443.start", "30%"), ("out_of_state", "16")] {
            settings.set(key.parse().expect("a key"), value).expect("a value");
        }
        let mut noted = entry("192.0.2.9", List::Deny, Origin::Hand);
        noted.listing.noted = true;
        let mut notes = Notes::default();
        let comment = Comment::of_line("a \"scanner\" in C:\\");
        notes.insert(noted.prefix, Note { comment, expires: Some(1_769_860_800_000) });
        let entries = [
            noted,
            entry("192.0.2.0/24", List::Deny, Origin::Hand),
            entry("192.0.2.7", List::Allow, Origin::File),
            entry("192.0.2.8", List::Allow, Origin::Session),
        ];
        let expected = "# defender run --iface eth0,eth1 --port 80,443 --config THIS_FILE\n\
                        mode = \"always\"\nout_of_state = \"16\"\n\
                        allow = [\n    \"192.0.2.7\",\n]\ndeny = [\n    \
                        { prefix = \"192.0.2.9\", comment = \"a \\\"scanner\\\" in C:\\\\\", \
                        expires = \"2026-01-31T12:00:00.000Z\" },\n    \"192.0.2.0/24\",\n]\n\
                        \n[port.443]\nstart = \"30%\"\n";
        assert_eq!(export(&settings, &entries, &notes, &["eth0".into(), "eth1".into()]), expected);
        assert_eq!(read(&export(&Settings::default(), &[], &Notes::default(), &[])), ConfigFile::default());
    }

    #[test]
    fn hooks_are_read_as_they_were() {
        let command =
            ["/bin/sh", "-c", "echo \"$0\" \\ \u{1}\u{7f}\n# no comment", "ä"].map(str::to_owned).into();
        let hook = Hook { command, timeout: Duration::from_millis(61_500) };
        let settings = Settings { hook: Some(hook.clone()), ..Settings::default() };
        assert_eq!(read(&export(&settings, &[], &Notes::default(), &[])).hook, Some(hook));
    }

    /// A setting with one of the values that it takes.
    fn setting() -> impl Strategy<Value = (Key, Value)> {
        let ports = select(vec![None, Some(1), Some(443), Some(65_535)]);
        let words = select(vec!["auto", "always", "off", "monitor", "default"]);
        let settings = select(Setting::ALL.to_vec());
        let numbers = prop_oneof![0..200_u32, any::<u32>()];
        (ports, settings, words, numbers, any::<bool>()).prop_filter_map(
            "no such value",
            |(port, setting, word, number, percent)| {
                let key = Key { port: port.filter(|_| setting.is_per_port()), setting };
                let texts = [word.to_owned(), format!("{number}{}", if percent { "%" } else { "" })];
                texts.iter().find_map(|text| setting.parse(text).ok()).map(|value| (key, value))
            },
        )
    }

    fn layer() -> impl Strategy<Value = Layer> {
        vec(setting(), 0..12).prop_map(|values| {
            let mut layer = Layer::default();
            values.into_iter().for_each(|(key, value)| layer.insert(key, value));
            layer
        })
    }

    fn prefix() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (any::<[u8; 4]>(), 1..=32_u8).prop_map(|(octets, bits)| {
                let address = u32::from_be_bytes(octets) & (u32::MAX << (32 - bits));
                format!("{}/{bits}", std::net::Ipv4Addr::from(address))
            }),
            (any::<u128>(), 1..=128_u8).prop_map(|(address, bits)| {
                let address = address & (u128::MAX << (128 - bits)) | 1 << 127;
                format!("{}/{bits}", std::net::Ipv6Addr::from(address))
            }),
        ]
        .prop_map(|text| text.parse().expect("a prefix"))
    }

    fn note() -> impl Strategy<Value = Note> {
        (any::<String>(), proptest::option::of(0..=LATEST))
            .prop_map(|(text, expires)| Note { comment: Comment::of_line(&text), expires })
    }

    proptest! {
        #[test]
        fn what_is_exported_is_what_was_in_force(
            set in layer(),
            file in proptest::option::of(layer()),
            listen in proptest::option::of(select(vec!["[::1]:9815", "unix:/run/a \"b\" \\c"])),
            allow in vec(prefix(), 0..5),
            deny in vec(prefix(), 0..5),
            noted in vec(note(), 0..5),
        ) {
            let settings = Settings {
                set,
                file: file.map(|layer| ("before".into(), layer)),
                metrics: listen.and_then(|text| text.parse().ok()),
                ..Settings::default()
            };
            prop_assume!(settings.check().is_ok());
            // A prefix is on one list only.
            prop_assume!(allow.iter().all(|prefix| !deny.contains(prefix)));
            let mut notes = Notes::default();
            for (prefix, note) in allow.iter().chain(&deny).zip(noted) {
                notes.insert(*prefix, note);
            }
            let listed = |prefixes: &[Cidr], list| -> Vec<Entry> {
                let listing = |prefix| Listing { list, origin: Origin::Hand, noted: notes.contains(prefix) };
                prefixes.iter().map(|prefix| Entry { prefix: *prefix, listing: listing(prefix) }).collect()
            };
            let entries = [listed(&allow, List::Allow), listed(&deny, List::Deny)].concat();
            let text = export(&settings, &entries, &notes, &["eth0".to_owned()]);
            let again = read(&text);
            prop_assert_eq!(&again.lists, &FileLists { allow, deny, notes: notes.clone() });
            prop_assert_eq!(&again.metrics, &settings.metrics);
            let file = Some(("after".into(), again.layer));
            let after = Settings { file, metrics: again.metrics, ..Settings::default() };
            for setting in Setting::ALL {
                for port in [None, Some(1), Some(443), Some(80), Some(65_535)] {
                    let key = Key { port: port.filter(|_| setting.is_per_port()), setting };
                    prop_assert_eq!(after.in_force(key).value, settings.in_force(key).value, "{}\n{}", key, &text);
                    prop_assert_eq!(after.in_force(key).key, settings.in_force(key).key, "{}\n{}", key, &text);
                }
            }
            // Once more, it says the same.
            prop_assert_eq!(export(&after, &entries, &notes, &["eth0".to_owned()]), text);
        }
    }
}
