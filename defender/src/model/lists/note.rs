//! What is noted about entries of the lists: a comment, and when they expire. Pure.
//!
//! Most entries have no note, and cost nothing here.

use std::{collections::BTreeMap, fmt, io::Read};

use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{MapAccess, Visitor},
};

use crate::{model::prefix::Cidr, problem::Problem};

/// A comment has so many characters at most.
pub const LONGEST_COMMENT: usize = 100;

/// A comment: one line that terminals show as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Comment(Box<str>);

impl Comment {
    /// As somebody gives it; none if it is empty.
    pub fn parse(text: &str) -> Result<Option<Self>, Problem> {
        let wrong = |why: &str| Err(Problem::Usage(format!("invalid comment: {why}")));
        if text.contains(char::is_control) {
            return wrong("it has a line break or another control character; use one line of plain text");
        }
        if text.chars().count() > LONGEST_COMMENT {
            return wrong(&format!("it is longer than {LONGEST_COMMENT} characters; shorten it"));
        }
        Ok(Self::of(text.trim()))
    }

    /// What a file has behind `#`, which may be anything; none if it is empty.
    pub fn of_line(text: &str) -> Option<Self> {
        let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let shown = plain.skip_while(|c| c.is_whitespace()).take(LONGEST_COMMENT);
        Self::of(shown.collect::<String>().trim_end())
    }

    fn of(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Comment> for String {
    fn from(comment: Comment) -> Self {
        comment.0.into()
    }
}

impl TryFrom<String> for Comment {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text)?.ok_or_else(|| Problem::Usage("invalid comment: it is empty".to_owned()))
    }
}

/// What is noted about an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Why it is there, in somebody's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
    /// When it goes, in milliseconds since the epoch: wall-clock time, so that restarts change nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl Note {
    /// Whether the entry is to go.
    pub fn is_due(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn is_empty(&self) -> bool {
        self.comment.is_none() && self.expires.is_none()
    }
}

/// The notes there are, by prefix. A note without an entry that [has one](super::entry::Listing::noted) means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(BTreeMap<Cidr, Note>);

impl Notes {
    /// The same for all of these that have none yet.
    pub fn fill(&mut self, prefixes: &[Cidr], note: &Note) {
        for prefix in prefixes.iter().filter(|_| !note.is_empty()) {
            let there = self.0.entry(*prefix).or_default();
            there.comment = there.comment.take().or_else(|| note.comment.clone());
            there.expires = there.expires.or(note.expires);
        }
    }

    /// Notes something; an empty note is none.
    pub fn insert(&mut self, prefix: Cidr, note: Note) {
        if note.is_empty() {
            self.0.remove(&prefix);
        } else {
            self.0.insert(prefix, note);
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, prefix: &Cidr) -> Option<Note> {
        self.0.remove(prefix)
    }

    /// Takes over others in place of those there are.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// What is noted about a prefix.
    pub fn get(&self, prefix: &Cidr) -> Option<&Note> {
        self.0.get(prefix)
    }

    /// Whether something is noted about it.
    pub fn contains(&self, prefix: &Cidr) -> bool {
        self.0.contains_key(prefix)
    }

    /// Whether nothing is noted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The prefixes that something is noted about.
    pub fn prefixes(&self) -> impl Iterator<Item = &Cidr> {
        self.0.keys()
    }

    /// The prefixes whose entries are to go.
    pub fn due(&self, now: u64) -> Vec<Cidr> {
        self.0.iter().filter(|(_, note)| note.is_due(now)).map(|(prefix, _)| *prefix).collect()
    }
}

/// When entries expire. What else is noted need not be kept in memory for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The prefixes whose entries are to go, in order.
    pub due: Vec<Cidr>,
    /// When the first of the others goes.
    pub next: Option<u64>,
}

impl Expiries {
    /// By the notes of a file.
    pub fn read(file: impl Read, now: u64) -> serde_json::Result<Self> {
        let mut expiries = Self::default();
        for_each(file, |prefix, note| expiries.add(prefix, &note, now))?;
        expiries.due.sort_unstable();
        Ok(expiries)
    }

    /// Takes in a note, in the order of prefixes.
    pub fn add(&mut self, prefix: Cidr, note: &Note, now: u64) {
        if note.is_due(now) {
            self.due.push(prefix);
        } else {
            self.next = self.next.into_iter().chain(note.expires).min();
        }
    }

    /// Whether the entry of a prefix is to go.
    pub fn is_due(&self, prefix: &Cidr) -> bool {
        self.due.binary_search(prefix).is_ok()
    }
}

/// Hands over the notes of a file one by one: a million need not be in memory at once.
pub fn for_each(file: impl Read, take: impl FnMut(Cidr, Note)) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_reader(file);
    json.deserialize_map(Each(take))?;
    json.end()
}

/// The entries of an object.
struct Each<F>(F);

impl<'de, F: FnMut(Cidr, Note)> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("notes by prefix")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((prefix, note)) = map.next_entry()? {
            (self.0)(prefix, note);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    fn note(comment: &str, expires: Option<u64>) -> Note {
        Note { comment: Comment::of_line(comment), expires }
    }

    #[test]
    fn comments_are_one_line_of_plain_text() {
        let long = "ä".repeat(LONGEST_COMMENT);
        assert_eq!(Comment::parse(&long).expect("fits").expect("text").as_str(), long);
        assert_eq!(Comment::parse(" scanner ").expect("good").expect("text").as_str(), "scanner");
        assert_eq!(Comment::parse("  ").expect("good"), None);
        for (text, why) in [
            ("a\nb", "line break"),
            ("\u{1b}[2J", "control character"),
            ("\u{9b}2J", "control character"),
            (&format!("{long}a"), "100 characters"),
        ] {
            let error = Comment::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_files_have_is_made_to_fit() {
        let shown = |text: &str| Comment::of_line(text).map(String::from);
        assert_eq!(shown(" a\tb\u{1b}[2J "), Some("a b [2J".to_owned()));
        assert_eq!(shown("\0 a\0"), Some("a".to_owned()));
        assert_eq!(shown(&"ä".repeat(500)), Some("ä".repeat(LONGEST_COMMENT)));
        assert_eq!((shown(""), shown("\t ")), (None, None));
    }

    #[test]
    fn what_is_due_is_found_and_what_comes_next() {
        let mut notes = Notes::default();
        notes.insert(cidr("10.0.0.1"), note("a", None));
        let expiries = |notes: &Notes, now| {
            let text = serde_json::to_string(notes).expect("JSON");
            let expiries = Expiries::read(text.as_bytes(), now).expect("notes");
            assert_eq!(expiries.due, notes.due(now));
            assert!(expiries.due.iter().all(|prefix| expiries.is_due(prefix)));
            expiries
        };
        assert_eq!(expiries(&notes, u64::MAX), Expiries::default());
        notes.insert(cidr("10.0.0.2"), note("", Some(2000)));
        notes.insert(cidr("10.0.0.3"), note("c", Some(3000)));
        assert_eq!(expiries(&notes, 1999), Expiries { due: vec![], next: Some(2000) });
        assert_eq!(expiries(&notes, 2000), Expiries { due: vec![cidr("10.0.0.2")], next: Some(3000) });
        // The clock steps: what is due follows it, both ways.
        assert_eq!(expiries(&notes, 1 << 40).due.len(), 2);
        assert_eq!(expiries(&notes, 0).due, []);
        notes.insert(cidr("10.0.0.2"), Note::default());
        assert!(!notes.contains(&cidr("10.0.0.2")));
    }

    #[test]
    fn a_lines_own_comment_comes_before_the_commands() {
        let mut notes = Notes::default();
        notes.insert(cidr("10.0.0.1"), note("own", None));
        notes.fill(&[cidr("10.0.0.1"), cidr("10.0.0.2")], &note("all", Some(7)));
        assert_eq!(notes.get(&cidr("10.0.0.1")), Some(&note("own", Some(7))));
        assert_eq!(notes.get(&cidr("10.0.0.2")), Some(&note("all", Some(7))));
        notes.fill(&[cidr("10.0.0.3")], &Note::default());
        assert!(!notes.contains(&cidr("10.0.0.3")));
    }

    #[test]
    fn notes_survive_a_file_and_a_damaged_file_is_seen() {
        let mut notes = Notes::default();
        notes.insert(cidr("192.0.2.0/24"), note("a \"quoted\" one", Some(5)));
        notes.insert(cidr("2001:db8::7"), note("", Some(u64::MAX)));
        let text = serde_json::to_string(&notes).expect("JSON");
        assert_eq!(serde_json::from_str::<Notes>(&text).expect("notes"), notes);
        for text in [
            "[]",
            "{\"x\":{}}",
            "{\"10.0.0.1\":{\"comment\":\"\\u001b\"}}",
            "{\"10.0.0.1\":{\"expires\":-1}}",
        ] {
            assert!(serde_json::from_str::<Notes>(text).is_err(), "{text}");
            assert!(Expiries::read(text.as_bytes(), 0).is_err(), "{text}");
        }
    }
}
