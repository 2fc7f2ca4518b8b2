//! What is in force, as a configuration file. Pure.
//!
//! What a file cannot hold is said in its first line: interfaces and `--port` belong to the command line.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::model::{
    lists::entry::{Entry, List, Origin},
    settings::{Key, Settings},
};

/// The file. Prefixes are left out that the start of a controller lists by itself.
pub fn export(settings: &Settings, entries: &[Entry], interfaces: &[String]) -> String {
    let mut text = first_line(settings, interfaces);
    let layer = settings.merged();
    let mut ports: BTreeMap<u16, Vec<Key>> = BTreeMap::new();
    for key in layer.keys() {
        match key.port {
            Some(port) => ports.entry(port).or_default().push(key),
            None => text.push_str(&line(settings, key)),
        }
    }
    for list in [List::Allow, List::Deny] {
        text.push_str(&prefixes(list, entries));
    }
    // Tables come last: what follows one's name is in it.
    for (port, keys) in ports {
        let _ = writeln!(text, "\n[port.{port}]");
        keys.into_iter().for_each(|key| text.push_str(&line(settings, key)));
    }
    text
}

fn first_line(settings: &Settings, interfaces: &[String]) -> String {
    let ports: Vec<String> = settings.ports.iter().map(u16::to_string).collect();
    let ports = if ports.is_empty() { String::new() } else { format!(" --port {}", ports.join(",")) };
    format!("# defender run --iface {}{ports} --config THIS_FILE\n", interfaces.join(","))
}

fn line(settings: &Settings, key: Key) -> String {
    format!("{} = \"{}\"\n", key.setting.name(), settings.get(key))
}

fn prefixes(list: List, entries: &[Entry]) -> String {
    let is_kept = |entry: &&Entry| entry.listing.list == list && entry.listing.origin != Origin::Session;
    let mut text = String::new();
    for entry in entries.iter().filter(is_kept) {
        if text.is_empty() {
            let _ = writeln!(text, "{} = [", list.name());
        }
        let _ = writeln!(text, "    \"{}\",", entry.prefix);
    }
    if !text.is_empty() {
        text.push_str("]\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::model::{
        config_file::ConfigFile,
        lists::entry::Listing,
        prefix::Cidr,
        setting_table::{Setting, Value},
        settings::Layer,
    };

    fn entry(text: &str, list: List, origin: Origin) -> Entry {
        Entry { prefix: text.parse().expect("a prefix"), listing: Listing { list, origin } }
    }

    fn read(text: &str) -> ConfigFile {
        ConfigFile::parse(Path::new("exported"), text, &|_| Ok(Vec::new())).expect(text)
    }

    #[test]
    fn a_file_for_people() {
        let mut settings = Settings { ports: vec![80, 443], ..Settings::default() };
        for (key, value) in [("mode", "always"), ("443.start", "30%"), ("out_of_state", "16")] {
            settings.set(key.parse().expect("a key"), value).expect("a value");
        }
        let entries = [
            entry("192.0.2.0/24", List::Deny, Origin::Hand),
            entry("192.0.2.7", List::Allow, Origin::File),
            entry("192.0.2.8", List::Allow, Origin::Session),
        ];
        let expected = "# defender run --iface eth0,eth1 --port 80,443 --config THIS_FILE\n\
                        mode = \"always\"\nout_of_state = \"16\"\n\
                        allow = [\n    \"192.0.2.7\",\n]\ndeny = [\n    \"192.0.2.0/24\",\n]\n\
                        \n[port.443]\nstart = \"30%\"\n";
        assert_eq!(export(&settings, &entries, &["eth0".into(), "eth1".into()]), expected);
        assert_eq!(read(&export(&Settings::default(), &[], &[])), ConfigFile::default());
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

    proptest! {
        #[test]
        fn what_is_exported_is_what_was_in_force(
            set in layer(),
            file in proptest::option::of(layer()),
            allow in vec(prefix(), 0..5),
            deny in vec(prefix(), 0..5),
        ) {
            let settings = Settings { set, file: file.map(|layer| ("before".into(), layer)), ports: vec![], hook: None };
            prop_assume!(settings.check().is_ok());
            // A prefix is on one list only.
            prop_assume!(allow.iter().all(|prefix| !deny.contains(prefix)));
            let listed = |prefixes: &[Cidr], list| -> Vec<Entry> {
                let listing = Listing { list, origin: Origin::Hand };
                prefixes.iter().map(|prefix| Entry { prefix: *prefix, listing }).collect()
            };
            let entries = [listed(&allow, List::Allow), listed(&deny, List::Deny)].concat();
            let text = export(&settings, &entries, &["eth0".to_owned()]);
            let again = read(&text);
            prop_assert_eq!((&again.allow, &again.deny), (&allow, &deny));
            let after = Settings { file: Some(("after".into(), again.layer)), ..Settings::default() };
            for setting in Setting::ALL {
                for port in [None, Some(1), Some(443), Some(80), Some(65_535)] {
                    let key = Key { port: port.filter(|_| setting.is_per_port()), setting };
                    prop_assert_eq!(after.in_force(key).value, settings.in_force(key).value, "{}\n{}", key, &text);
                    prop_assert_eq!(after.in_force(key).key, settings.in_force(key).key, "{}\n{}", key, &text);
                }
            }
            // Once more, it says the same.
            prop_assert_eq!(export(&after, &entries, &["eth0".to_owned()]), text);
        }
    }
}
