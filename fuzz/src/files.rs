//! Any bytes as a configuration file and as each of the controller's own files. Nothing panics, parsed
//! values are consistent, and they survive writing and reading again.

use std::path::Path;

use defender::{
    model::{baseline::Baselines, config_file::ConfigFile, event::Record, export, settings::Settings},
    state::findings::Findings,
};
use serde::{Serialize, de::DeserializeOwned};

/// The first byte selects the file format of the rest.
pub(crate) fn run(data: &[u8]) {
    let [which, rest @ ..] = data else { return };
    match which % 5 {
        0 => configuration(rest),
        1 => own::<Settings>(rest, |settings| drop(settings.check())),
        2 => own::<Findings>(rest, |_| ()),
        3 => own::<Baselines>(rest, |baselines| {
            let _ = baselines.percentiles("[::]:80");
        }),
        _ => own::<Record>(rest, |_| ()),
    }
}

fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("config.toml");
    let no_list = |_: &Path| Ok(Vec::new());
    let Ok(file) = ConfigFile::parse(path, text, &no_list) else { return };
    let settings =
        Settings { file: Some((path.to_owned(), file.layer)), hook: file.hook, ..Settings::default() };
    if settings.check().is_err() {
        return;
    }
    let exported = export::export(&settings, &[], &[]);
    let again = ConfigFile::parse(path, &exported, &no_list).expect("what is exported can be read");
    let again =
        Settings { file: Some((path.to_owned(), again.layer)), hook: again.hook, ..Settings::default() };
    assert_eq!(settings.hook, again.hook);
    for key in settings.keys() {
        assert_eq!(settings.get(key), again.get(key), "{key:?}");
    }
}

fn own<T: Serialize + DeserializeOwned>(bytes: &[u8], look: impl Fn(&T)) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    look(&read);
    let text = serde_json::to_string(&read).expect("can be written");
    let again: T = serde_json::from_str(&text).expect("can be read again");
    assert_eq!(serde_json::to_string(&again).expect("can be written"), text);
}
