//! Any bytes as a configuration file, as a file of prefixes and as each of the controller's own files. Nothing panics, parsed
//! values are consistent, and they survive writing and reading again.

use std::path::Path;

use defender::{
    model::{
        baseline::Baselines,
        config_file::ConfigFile,
        event::Record,
        export,
        lists::{
            entry::{Entry, List, Listing, Origin},
            file::{self, FileLists, Prefixes},
            note::Notes,
        },
        prefix::Cidr,
        settings::Settings,
    },
    state::findings::Findings,
};
use serde::{Serialize, de::DeserializeOwned};

/// The first byte selects the file format of the rest.
pub(crate) fn run(data: &[u8]) {
    let [which, rest @ ..] = data else { return };
    match which % 7 {
        0 => configuration(rest),
        1 => own::<Settings>(rest, |settings| drop(settings.check())),
        2 => own::<Findings>(rest, |_| ()),
        3 => own::<Baselines>(rest, |baselines| {
            let _ = baselines.percentiles("[::]:80");
        }),
        4 => own::<Record>(rest, |_| ()),
        5 => prefixes(rest),
        _ => own::<Notes>(rest, |notes| drop(notes.due(u64::MAX))),
    }
}

fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("config.toml");
    let no_list = |_: &Path| Ok(Prefixes::default());
    let Ok(file) = ConfigFile::parse(path, text, &no_list) else { return };
    let settings =
        Settings { file: Some((path.to_owned(), file.layer)), hook: file.hook, ..Settings::default() };
    if settings.check().is_err() {
        return;
    }
    let entries = entries(&file.lists);
    let exported = export::export(&settings, &entries, &file.lists.notes, &[]);
    let again = ConfigFile::parse(path, &exported, &no_list).expect("what is exported can be read");
    assert_eq!(self::entries(&again.lists), entries, "{exported}");
    assert_eq!(again.lists.notes, file.lists.notes, "{exported}");
    let again =
        Settings { file: Some((path.to_owned(), again.layer)), hook: again.hook, ..Settings::default() };
    assert_eq!(settings.hook, again.hook);
    for key in settings.keys() {
        assert_eq!(settings.get(key), again.get(key), "{key:?}");
    }
}

/// What a file has on the lists, as the map would have it.
fn entries(lists: &FileLists) -> Vec<Entry> {
    let entry = |list, prefix: &Cidr| {
        let noted = lists.notes.contains(prefix);
        Entry { prefix: *prefix, listing: Listing { list, origin: Origin::File, noted } }
    };
    let allowed = lists.allow.iter().map(|prefix| entry(List::Allow, prefix));
    allowed.chain(lists.deny.iter().map(|prefix| entry(List::Deny, prefix))).collect()
}

/// What a file of prefixes says is what a file of the same says.
fn prefixes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("blocked.txt");
    let Ok(read) = file::parse(path, text) else { return };
    let line = |prefix: &Cidr| {
        let comment = read.notes.get(prefix).and_then(|note| note.comment.as_ref());
        comment.map_or_else(|| format!("{prefix}\n"), |comment| format!("{prefix} # {comment}\n"))
    };
    let text: String = read.prefixes.iter().map(line).collect();
    assert_eq!(file::parse(path, &text).expect("can be read again"), read);
}

fn own<T: Serialize + DeserializeOwned>(bytes: &[u8], look: impl Fn(&T)) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    look(&read);
    let text = serde_json::to_string(&read).expect("can be written");
    let again: T = serde_json::from_str(&text).expect("can be read again");
    assert_eq!(serde_json::to_string(&again).expect("can be written"), text);
}
