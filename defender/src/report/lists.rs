//! The lists of prefixes, as text and JSON. Pure.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    model::{lists::entry::Entry, number::thousands},
    report::{VERSION, table},
};

/// As text: at most `limit` entries, and how many more there are.
pub fn text(entries: &[Entry], limit: Option<usize>) -> String {
    if entries.is_empty() {
        return "  no prefixes\n".to_owned();
    }
    let shown = cut(entries, limit);
    let row = |entry: &Entry| vec![entry.prefix.to_string(), entry.listing.origin.name().to_owned()];
    let rows: Vec<_> = shown.iter().map(row).collect();
    let mut text = table::render(&["prefix", "origin"], &rows);
    if shown.len() < entries.len() {
        text.push_str(&format!("\n… and {} more\n", thousands((entries.len() - shown.len()) as u64)));
    }
    text
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
}

/// As JSON, on one line.
pub fn json(entries: &[Entry], limit: Option<usize>) -> Result<String> {
    let row = |entry: &Entry| Row { prefix: entry.prefix.to_string(), origin: entry.listing.origin.name() };
    let prefixes = cut(entries, limit).iter().map(row).collect();
    let listing = PrefixListing { version: VERSION, total: entries.len(), prefixes };
    serde_json::to_string(&listing).context("cannot write JSON")
}

fn cut(entries: &[Entry], limit: Option<usize>) -> &[Entry] {
    &entries[..limit.unwrap_or(usize::MAX).min(entries.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lists::entry::{List, Listing, Origin};

    fn entries() -> Vec<Entry> {
        let entry = |text: &str, origin| Entry {
            prefix: text.parse().expect(text),
            listing: Listing { list: List::Allow, origin },
        };
        vec![entry("192.0.2.0/24", Origin::File), entry("2001:db8::7", Origin::Hand)]
    }

    #[test]
    fn text_is_a_table() {
        let expected = "  PREFIX        ORIGIN\n  192.0.2.0/24  file\n  2001:db8::7   hand\n";
        assert_eq!(text(&entries(), None), expected);
        assert!(text(&entries(), Some(1)).ends_with("file\n\n… and 1 more\n"));
        assert_eq!(text(&[], None), "  no prefixes\n");
    }

    #[test]
    fn json_tells_how_many_there_are() {
        assert_eq!(
            json(&entries(), Some(1)).expect("JSON"),
            r#"{"version":1,"total":2,"prefixes":[{"prefix":"192.0.2.0/24","origin":"file"}]}"#
        );
    }
}
