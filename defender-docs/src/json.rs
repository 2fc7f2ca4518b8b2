//! `json.md` and `events.md`, from the structs that are serialized.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use defender_common::mitigation::{Level, Trigger};

use crate::{
    markdown::{code, head, table},
    schema::Sources,
};

const INTRODUCTION: &str = "\
Every command has `-o json`, or `--json` for short. Each prints one object with `\"version\": 1`, with `--watch` one a line. Fields
are added in later versions, never renamed or removed. `[]` after a name stands for each element of an array.";

/// Each command with its struct, as file and name.
const COMMANDS: [(&str, &str, &str, &str); 14] = [
    ("defender stats --json", "", "json", "Stats"),
    ("defender status --json", "", "json", "Status"),
    ("defender conns --json", "On one line.", "conns", "ConnsListing"),
    ("defender conns --summary --json", "", "conns", "ConnsSummary"),
    ("defender why --json", "", "why", "Why"),
    ("defender explain --json", "", "explain", "Explained"),
    ("defender allow list --json", "On one line. `deny list --json` is the same.", "lists", "PrefixListing"),
    ("defender doctor --json", "", "report", "Report"),
    (
        "defender get --json",
        "On one line. `set --json` prints the same, of the setting that was changed.",
        "outcome",
        "ShownSettings",
    ),
    ("defender config check --json", "On one line.", "outcome", "CheckedConfig"),
    ("defender attach --json", "On one line.", "outcome", "AttachedInterfaces"),
    ("defender detach --json", "On one line.", "outcome", "DetachedInterfaces"),
    ("defender events --json", "See [events](events.md).", "", ""),
    (
        "Messages",
        "With `-o json`, messages on standard error are JSON as well, one a line; so are those of `run`, while it runs. The error \
         that ends a command is the last.",
        "logger",
        "Message",
    ),
];

/// `json.md`.
pub(crate) fn page() -> Result<String> {
    let sources = Sources::read()?;
    let mut text = head("JSON", INTRODUCTION);
    for (command, note, file, name) in COMMANDS {
        let _ = write!(text, "\n## {command}\n");
        if !note.is_empty() {
            let _ = write!(text, "\n{note}\n");
        }
        if !name.is_empty() {
            text.push_str(&fields(&sources, file, name).with_context(|| command.to_owned())?);
        }
    }
    Ok(text)
}

const EVENTS: &str = "\
`defender events` lists past events, `defender events --follow` prints new ones as they come. With `--json`, each is one line.
They outlive restarts and `detach`: the last 8 MiB are kept below `/var/lib/defender`. In mode `monitor` the same events come, with
`dry_run` set: they say what mode `auto` would have done.";

/// `events.md`.
pub(crate) fn events() -> Result<String> {
    let sources = Sources::read()?;
    let mut text = head("Events", EVENTS);
    text.push_str(&fields(&sources, "event", "Record")?);
    for (title, name) in [("event", "Transition"), ("kind", "EventKind")] {
        let rows: Vec<_> = sources
            .variants("event", name)?
            .into_iter()
            .map(|(value, meaning)| [code(&value), meaning])
            .collect();
        let _ = write!(text, "\n## Values of `{title}`\n{}", table(["value", "meaning"], &rows));
    }
    let levels: Vec<_> = Level::ALL.map(|level| [code(level.name()), level.describe().to_owned()]).into();
    let _ = write!(text, "\n## Values of `level` and `from`\n{}", table(["value", "what is done"], &levels));
    let mut triggers: Vec<_> =
        Trigger::ALL.map(|trigger| [code(trigger.name()), trigger.describe().to_owned()]).into();
    triggers.extend([
        [code("detached"), "defender was detached".to_owned()],
        [code("unprotectable"), "defender can no longer protect the service; `words` says why".to_owned()],
        [code("protectable"), "defender can protect the service again".to_owned()],
    ]);
    let _ = write!(text, "\n## Values of `trigger`\n{}", table(["value", "meaning"], &triggers));
    Ok(text)
}

fn fields(sources: &Sources, file: &str, name: &str) -> Result<String> {
    let described = sources.fields(file, name)?;
    let rows: Vec<_> =
        described.into_iter().map(|field| [code(&field.path), field.kind, field.meaning]).collect();
    Ok(table(["field", "type", "meaning"], &rows))
}
