//! The lists of prefixes, and what has become of them, as text and JSON. Pure.

use anyhow::Result;
use serde::Serialize;

use crate::{
    model::{
        lists::{
            entry::Entry,
            expiry::time_left,
            note::{Note, Notes},
            plan::{Addition, Removal},
        },
        number::thousands,
        prefix::Cidr,
        timestamp::rfc3339,
    },
    report::{
        VERSION,
        outcome::line,
        table::{self, NONE},
    },
};

/// As text, `width` columns wide: at most `limit` entries, and how many more there are.
pub fn text(entries: &[Entry], notes: &Notes, limit: Option<usize>, now: u64, width: usize) -> String {
    if entries.is_empty() {
        return "  no prefixes\n".to_owned();
    }
    let shown = cut(entries, limit);
    let mut text = if shown.iter().any(|entry| note_of(entry, notes).is_some()) {
        let rows: Vec<_> = shown.iter().map(|entry| noted_row(entry, notes, now)).collect();
        table::fit(&["prefix", "origin", "expires in", "comment"], &rows, width)
    } else {
        table::render(&["prefix", "origin"], &shown.iter().map(row).collect::<Vec<_>>())
    };
    if shown.len() < entries.len() {
        text.push_str(&format!("\n… and {} more\n", thousands((entries.len() - shown.len()) as u64)));
    }
    text
}

fn row(entry: &Entry) -> Vec<String> {
    vec![entry.prefix.to_string(), entry.listing.origin.name().to_owned()]
}

fn noted_row(entry: &Entry, notes: &Notes, now: u64) -> Vec<String> {
    let note = note_of(entry, notes);
    let expires = note.and_then(|note| note.expires).map(|expires| time_left(expires, now));
    let comment = note.and_then(|note| note.comment.as_ref()).map(ToString::to_string);
    let noted = [expires, comment].map(|cell| cell.unwrap_or_else(|| NONE.to_owned()));
    row(entry).into_iter().chain(noted).collect()
}

fn note_of<'a>(entry: &Entry, notes: &'a Notes) -> Option<&'a Note> {
    notes.get(&entry.prefix).filter(|_| entry.listing.noted)
}

#[derive(Serialize)]
struct PrefixListing {
    /// Version of the shape: 1.
    version: u32,
    /// How many prefixes are on the list, regardless of `--limit`.
    total: usize,
    /// The prefixes.
    prefixes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    /// The prefix.
    prefix: String,
    /// Who added it: `hand` (`allow add`, `deny add`), `file` (the configuration file) or `session` (the
    /// SSH session that started defender).
    origin: &'static str,
    /// Why it is there; missing if nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    /// When it is removed, by RFC 3339, in UTC; missing: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

/// As JSON, on one line.
pub fn json(entries: &[Entry], notes: &Notes, limit: Option<usize>) -> Result<String> {
    let row = |entry: &Entry| {
        let note = note_of(entry, notes);
        Row {
            prefix: entry.prefix.to_string(),
            origin: entry.listing.origin.name(),
            comment: note.and_then(|note| note.comment.as_ref()).map(ToString::to_string),
            expires: note.and_then(|note| note.expires).map(rfc3339),
        }
    };
    let prefixes = cut(entries, limit).iter().map(row).collect();
    line(&PrefixListing { version: VERSION, total: entries.len(), prefixes })
}

#[derive(Serialize)]
struct Added<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// How many prefixes were on no list.
    added: usize,
    /// How many prefixes were on this list already.
    already: usize,
    /// Of these: how many have or had a comment or a time of expiry, which is the one given now.
    updated: usize,
    /// Prefixes that were on the other list.
    moved: &'a [Cidr],
}

/// What adding came to, as JSON.
pub fn added(addition: &Addition) -> Result<String> {
    let Addition { added, already, updated, moved, .. } = addition;
    line(&Added { version: VERSION, added: *added, already: *already, updated: *updated, moved })
}

#[derive(Serialize)]
struct Removed<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// How many prefixes were removed.
    removed: usize,
    /// Prefixes that were not on the list.
    missing: &'a [Cidr],
    /// Prefixes of the configuration file, which return when it is read again.
    returning: Vec<Cidr>,
}

/// What removing came to, as JSON.
pub fn removed(removal: &Removal) -> Result<String> {
    let (removed, missing, returning) = (removal.changes.len(), &*removal.missing, removal.from_file());
    line(&Removed { version: VERSION, removed, missing, returning })
}

fn cut(entries: &[Entry], limit: Option<usize>) -> &[Entry] {
    &entries[..limit.unwrap_or(usize::MAX).min(entries.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lists::{
        entry::{List, Listing, Origin},
        note::Comment,
        plan::Change,
    };

    const NOW: u64 = 1_769_860_800_000;

    fn entries() -> Vec<Entry> {
        let entry = |text: &str, origin| Entry {
            prefix: text.parse().expect(text),
            listing: Listing::new(List::Allow, origin),
        };
        vec![entry("192.0.2.0/24", Origin::File), entry("2001:db8::7", Origin::Hand)]
    }

    fn noted(comment: &str, expires: Option<u64>) -> (Vec<Entry>, Notes) {
        let (mut entries, mut notes) = (entries(), Notes::default());
        entries[1].listing.noted = true;
        notes.insert(entries[1].prefix, Note { comment: Comment::of_line(comment), expires });
        (entries, notes)
    }

    #[test]
    fn text_is_a_table() {
        let text = |entries: &[Entry], limit| text(entries, &Notes::default(), limit, NOW, 80);
        let expected = "  PREFIX        ORIGIN\n  192.0.2.0/24  file\n  2001:db8::7   hand\n";
        assert_eq!(text(&entries(), None), expected);
        assert!(text(&entries(), Some(1)).ends_with("file\n\n… and 1 more\n"));
        assert_eq!(text(&[], None), "  no prefixes\n");
    }

    #[test]
    fn comment_and_time_left_have_columns_if_there_are_any() {
        let (entries, notes) = noted("a scanner", Some(NOW + 5_400_000));
        assert_eq!(
            text(&entries, &notes, None, NOW, 80),
            "  PREFIX        ORIGIN  EXPIRES IN  COMMENT\n\
             \x20 192.0.2.0/24  file    -           -\n\
             \x20 2001:db8::7   hand    1h 30m      a scanner\n"
        );
        assert!(!text(&entries, &notes, Some(1), NOW, 80).contains("COMMENT"), "no row has one");
        // A note of no entry, as who was stopped halfway leaves it.
        let mut entries = entries;
        entries[1].listing.noted = false;
        assert!(!text(&entries, &notes, None, NOW, 80).contains("scanner"));
    }

    #[test]
    fn tables_fit_a_terminal_whatever_is_in_them() {
        let long = "2001:db8:ffff:ffff:ffff:ffff:ffff:fff0/124";
        for (prefix, expires) in
            [("192.0.2.7", None), (long, Some(NOW + 1)), (long, Some(NOW + 40 * 86_400_000))]
        {
            let (mut entries, mut notes) = noted("", None);
            entries[1].prefix = prefix.parse().expect(prefix);
            let comment = Comment::of_line(&"ä word ".repeat(20));
            notes.insert(entries[1].prefix, Note { comment, expires });
            let text = text(&entries, &notes, None, NOW, 80);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(80) && text.matches("ä").count() == 15, "{text}");
        }
    }

    #[test]
    fn json_tells_how_many_there_are() {
        assert_eq!(
            json(&entries(), &Notes::default(), Some(1)).expect("JSON"),
            "{\"version\":1,\"total\":2,\"prefixes\":[{\"prefix\":\"192.0.2.0/24\",\"origin\":\"file\"}]}\n"
        );
    }

    #[test]
    fn json_has_what_is_noted_in_full() {
        let comment = "word ".repeat(20);
        let (entries, notes) = noted(&comment, Some(NOW));
        let json = json(&entries, &notes, None).expect("JSON");
        let expected = format!(
            "\"origin\":\"hand\",\"comment\":\"{}\",\"expires\":\"2026-01-31T12:00:00.000Z\"}}]}}\n",
            comment.trim()
        );
        assert!(json.ends_with(&expected), "{json}");
    }

    #[test]
    fn changes_as_json() {
        let moved = vec![entries()[0].prefix];
        let addition = Addition { added: 3, already: 2, updated: 1, moved, changes: vec![] };
        assert_eq!(
            added(&addition).expect("JSON"),
            "{\"version\":1,\"added\":3,\"already\":2,\"updated\":1,\"moved\":[\"192.0.2.0/24\"]}\n"
        );
        let change = |entry: Entry| Change { prefix: entry.prefix, before: Some(entry.listing), after: None };
        let changes = entries().into_iter().map(change).collect();
        let removal = Removal { changes, missing: vec!["10.0.0.1".parse().expect("a prefix")] };
        assert_eq!(
            removed(&removal).expect("JSON"),
            "{\"version\":1,\"removed\":2,\"missing\":[\"10.0.0.1\"],\"returning\":[\"192.0.2.0/24\"]}\n"
        );
    }
}
