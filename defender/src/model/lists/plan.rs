//! What is to be changed on the lists. Pure.

use std::collections::BTreeMap;

use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        lists::{
            entry::{self, Entry, List, Listing, Origin},
            file::FileLists,
            note::Notes,
        },
        prefix::Cidr,
    },
    problem::Problem,
};

/// So many prefixes are named in one message.
pub const NAMED: usize = 10;

/// A prefix, what is said about it, and what shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The prefix.
    pub prefix: Cidr,
    /// What the map says; none: nothing.
    pub before: Option<Listing>,
    /// What it shall say; none: nothing.
    pub after: Option<Listing>,
}

impl Change {
    /// What undoes it.
    pub fn undone(&self) -> Self {
        Self { prefix: self.prefix, before: self.after, after: self.before }
    }
}

/// How many prefixes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCounts {
    /// On the allow list.
    pub allowed: u64,
    /// On the deny list.
    pub denied: u64,
}

impl ListCounts {
    /// Of these listings.
    pub fn of(listings: impl Iterator<Item = Listing>) -> Self {
        let mut counts = Self::default();
        listings.for_each(|listing| *counts.of_list(listing.list) += 1);
        counts
    }

    /// After changes.
    pub fn after(mut self, changes: &[Change]) -> Self {
        for change in changes {
            if let Some(before) = change.before {
                let count = self.of_list(before.list);
                *count = count.saturating_sub(1);
            }
            if let Some(after) = change.after {
                *self.of_list(after.list) += 1;
            }
        }
        self
    }

    /// And these.
    pub fn add(&mut self, more: Self) {
        self.allowed += more.allowed;
        self.denied += more.denied;
    }

    /// On both lists.
    pub fn total(self) -> u64 {
        self.allowed + self.denied
    }

    fn of_list(&mut self, list: List) -> &mut u64 {
        match list {
            List::Allow => &mut self.allowed,
            List::Deny => &mut self.denied,
        }
    }
}

/// What adding by hand comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// What is to be written.
    pub changes: Vec<Change>,
    /// Prefixes that were on no list.
    pub added: usize,
    /// Prefixes that were on this list already.
    pub already: usize,
    /// Of these: the comment or time of expiry may be another one now.
    pub updated: usize,
    /// Prefixes that were on the other list.
    pub moved: Vec<Cidr>,
}

/// Puts prefixes on a list, by hand. Comment and time of expiry are those given now, or none.
pub fn add(list: List, before: &BTreeMap<Cidr, Option<Listing>>, notes: &Notes) -> Addition {
    let mut addition = Addition::default();
    for (prefix, before) in before {
        let wanted = Listing { list, origin: Origin::Hand, noted: notes.contains(prefix) };
        match before {
            None => addition.added += 1,
            Some(before) if before.list == list => {
                addition.already += 1;
                addition.updated += usize::from(before.noted || wanted.noted);
            }
            Some(_) => addition.moved.push(*prefix),
        }
        if *before != Some(wanted) {
            addition.changes.push(Change { prefix: *prefix, before: *before, after: Some(wanted) });
        }
    }
    addition
}

/// What taking prefixes off a list comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// What is to be written.
    pub changes: Vec<Change>,
    /// Prefixes that are not on this list.
    pub missing: Vec<Cidr>,
}

impl Removal {
    /// Prefixes that are in the configuration file.
    pub fn from_file(&self) -> Vec<Cidr> {
        let is_from_file =
            |change: &&Change| change.before.is_some_and(|before| before.origin == Origin::File);
        self.changes.iter().filter(is_from_file).map(|change| change.prefix).collect()
    }
}

/// Takes prefixes off a list.
pub fn remove(list: List, before: &BTreeMap<Cidr, Option<Listing>>) -> Removal {
    let mut removal = Removal::default();
    for (prefix, before) in before {
        if before.is_some_and(|before| before.list == list) {
            removal.changes.push(Change { prefix: *prefix, before: *before, after: None });
        } else {
            removal.missing.push(*prefix);
        }
    }
    removal
}

/// Takes everything off a list.
pub fn flush(list: List, entries: &[Entry]) -> Removal {
    let on_it = entries.iter().filter(|entry| entry.listing.list == list);
    let gone = |entry: &Entry| Change { prefix: entry.prefix, before: Some(entry.listing), after: None };
    Removal { changes: on_it.map(gone).collect(), missing: Vec::new() }
}

/// What loading the configuration file's lists comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadSummary {
    /// Prefixes that are new, or on the other list now.
    pub written: usize,
    /// Prefixes that are no longer in the file.
    pub removed: usize,
    /// Prefixes that were put on the other list by hand, and stay there.
    pub overruled: Vec<Cidr>,
}

/// What is to be written for a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What is to be written.
    pub changes: Vec<Change>,
    /// What is to be noted before.
    pub notes: Notes,
    /// What it comes to.
    pub summary: LoadSummary,
}

/// Replaces what comes from the file by what is in it now, and leaves what was added by hand.
pub fn load(entries: &[Entry], file: FileLists, now: u64) -> Result<Load, Problem> {
    let mut wanted = wanted(&file)?;
    let mut notes = file.notes;
    for expired in notes.due(now) {
        wanted.remove(&expired);
        notes.remove(&expired);
    }
    let mut summary = LoadSummary::default();
    let mut changes = Vec::new();
    for Entry { prefix, listing } in entries {
        let after = wanted.remove(prefix).map(|list| from_file(list, prefix, &notes));
        match (listing.origin, after) {
            (Origin::Hand, after) => {
                // What is noted about it is somebody's, too.
                notes.remove(prefix);
                if after.is_some_and(|after| after.list != listing.list) {
                    summary.overruled.push(*prefix);
                }
            }
            (Origin::Session, None) => {}
            (Origin::File, None) => {
                summary.removed += 1;
                changes.push(Change { prefix: *prefix, before: Some(*listing), after });
            }
            (_, after) if after == Some(*listing) => {}
            (_, after) => {
                summary.written += 1;
                changes.push(Change { prefix: *prefix, before: Some(*listing), after });
            }
        }
    }
    summary.written += wanted.len();
    changes.extend(wanted.into_iter().map(|(prefix, list)| Change {
        prefix,
        before: None,
        after: Some(from_file(list, &prefix, &notes)),
    }));
    Ok(Load { changes, notes, summary })
}

fn from_file(list: List, prefix: &Cidr, notes: &Notes) -> Listing {
    Listing { list, origin: Origin::File, noted: notes.contains(prefix) }
}

/// Whether a file's lists can be loaded, onto no others.
pub fn check(file: &FileLists) -> Result<(), Problem> {
    let number = wanted(file)?.len();
    if number > abi::MOST_PREFIXES as usize {
        let most = abi::MOST_PREFIXES;
        return Err(Problem::Usage(format!(
            "the lists hold at most {most} prefixes, and these are {number}"
        )));
    }
    Ok(())
}

fn wanted(file: &FileLists) -> Result<BTreeMap<Cidr, List>, Problem> {
    let mut wanted: BTreeMap<Cidr, List> = file.allow.iter().map(|prefix| (*prefix, List::Allow)).collect();
    for prefix in &file.deny {
        if wanted.insert(*prefix, List::Deny) == Some(List::Allow) {
            return Err(Problem::Usage(format!(
                "{prefix} is in both `allow` and `deny`; remove it from one"
            )));
        }
    }
    wanted.keys().try_for_each(|prefix| entry::check(*prefix))?;
    Ok(wanted)
}

/// The first of many.
pub fn names(prefixes: &[Cidr]) -> String {
    names_of(prefixes, prefixes.len() as u64)
}

/// The same, of which not all need be at hand.
pub fn names_of(first: &[Cidr], total: u64) -> String {
    let first: Vec<String> = first.iter().take(NAMED).map(Cidr::to_string).collect();
    match total.saturating_sub(NAMED as u64) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lists::note::{Comment, Note};

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    fn listing(list: List, origin: Origin) -> Listing {
        Listing::new(list, origin)
    }

    fn note(comment: &str, expires: Option<u64>) -> Note {
        Note { comment: Comment::of_line(comment), expires }
    }

    fn before(entries: &[(&str, Option<Listing>)]) -> BTreeMap<Cidr, Option<Listing>> {
        entries.iter().map(|(text, listing)| (cidr(text), *listing)).collect()
    }

    #[test]
    fn adding_moves_and_takes_over() {
        let hand = listing(List::Deny, Origin::Hand);
        let file = listing(List::Deny, Origin::File);
        let allowed = listing(List::Allow, Origin::Session);
        let addition = add(
            List::Deny,
            &before(&[
                ("10.0.0.0/8", None),
                ("10.1.0.0/16", Some(hand)),
                ("10.2.0.0/16", Some(file)),
                ("10.3.0.0/16", Some(allowed)),
            ]),
            &Notes::default(),
        );
        let change = |text, before| Change {
            prefix: cidr(text),
            before,
            after: Some(listing(List::Deny, Origin::Hand)),
        };
        assert_eq!(
            addition,
            Addition {
                changes: vec![
                    change("10.0.0.0/8", None),
                    change("10.2.0.0/16", Some(file)),
                    change("10.3.0.0/16", Some(allowed)),
                ],
                added: 1,
                already: 2,
                updated: 0,
                moved: vec![cidr("10.3.0.0/16")],
            }
        );
        let counts = ListCounts { allowed: 5, denied: 7 }.after(&addition.changes);
        assert_eq!((counts, counts.total()), (ListCounts { allowed: 4, denied: 9 }, 13));
    }

    #[test]
    fn a_note_is_replaced_by_the_one_given_now_or_none() {
        let plain = listing(List::Deny, Origin::Hand);
        let noted = Listing { noted: true, ..plain };
        let before = before(&[
            ("10.0.0.1", None),
            ("10.0.0.2", Some(plain)),
            ("10.0.0.3", Some(noted)),
            ("10.0.0.4", Some(noted)),
        ]);
        let mut notes = Notes::default();
        for prefix in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            notes.insert(cidr(prefix), note("why", None));
        }
        let addition = add(List::Deny, &before, &notes);
        let change = |text, before, after| Change { prefix: cidr(text), before, after: Some(after) };
        // The third one's flag is right already.
        assert_eq!(
            addition.changes,
            [
                change("10.0.0.1", None, noted),
                change("10.0.0.2", Some(plain), noted),
                change("10.0.0.4", Some(noted), plain),
            ]
        );
        assert_eq!((addition.added, addition.already, addition.updated), (1, 3, 3));
    }

    #[test]
    fn what_is_on_the_list_is_removed_and_the_rest_is_named() {
        let allowed = Some(listing(List::Allow, Origin::File));
        let denied = Some(listing(List::Deny, Origin::Hand));
        let removal =
            remove(List::Allow, &before(&[("10.0.0.1", allowed), ("10.0.0.2", denied), ("10.0.0.3", None)]));
        assert_eq!(removal.missing, [cidr("10.0.0.2"), cidr("10.0.0.3")]);
        assert_eq!(removal.changes, [Change { prefix: cidr("10.0.0.1"), before: allowed, after: None }]);
        assert_eq!(removal.from_file(), [cidr("10.0.0.1")]);
    }

    #[test]
    fn flushing_leaves_the_other_list() {
        let entry = |text: &str, list| Entry { prefix: cidr(text), listing: listing(list, Origin::Hand) };
        let entries = [entry("10.0.0.1", List::Allow), entry("10.0.0.2", List::Deny)];
        let removal = flush(List::Deny, &entries);
        let before = Some(entries[1].listing);
        assert_eq!(removal.changes, [Change { prefix: cidr("10.0.0.2"), before, after: None }]);
        assert_eq!((removal.missing, removal.changes.len()), (vec![], 1));
    }

    #[test]
    fn a_files_notes_leave_those_given_by_hand_and_what_has_expired_stays_out() {
        let entries = [
            Entry { prefix: cidr("10.0.0.1"), listing: listing(List::Deny, Origin::Hand) },
            Entry { prefix: cidr("10.0.0.2"), listing: listing(List::Deny, Origin::File) },
            Entry { prefix: cidr("10.0.0.3"), listing: listing(List::Deny, Origin::File) },
        ];
        let mut notes = Notes::default();
        notes.insert(cidr("10.0.0.1"), note("ours", None));
        notes.insert(cidr("10.0.0.2"), note("new", Some(2000)));
        notes.insert(cidr("10.0.0.3"), note("", Some(1000)));
        notes.insert(cidr("10.0.0.4"), note("", Some(1000)));
        let deny = notes.prefixes().copied().collect();
        let load = load(&entries, FileLists { allow: vec![], deny, notes }, 1000).expect("a plan");
        let noted = Some(Listing { noted: true, ..entries[1].listing });
        assert_eq!(
            load.changes,
            [
                Change { prefix: cidr("10.0.0.2"), before: Some(entries[1].listing), after: noted },
                Change { prefix: cidr("10.0.0.3"), before: Some(entries[2].listing), after: None },
            ]
        );
        assert_eq!(load.notes.prefixes().collect::<Vec<_>>(), [&cidr("10.0.0.2")]);
        assert_eq!(load.summary, LoadSummary { written: 1, removed: 1, overruled: vec![] });
    }

    #[test]
    fn loading_replaces_what_comes_from_the_file_alone() {
        let entry = |text: &str, list, origin| Entry { prefix: cidr(text), listing: listing(list, origin) };
        let entries = [
            entry("10.0.0.1", List::Allow, Origin::File),
            entry("10.0.0.2", List::Allow, Origin::File),
            entry("10.0.0.3", List::Allow, Origin::File),
            entry("10.0.0.4", List::Allow, Origin::Hand),
            entry("10.0.0.5", List::Allow, Origin::Hand),
            entry("10.0.0.6", List::Allow, Origin::Session),
            entry("10.0.0.7", List::Allow, Origin::Session),
        ];
        let cidrs = |texts: &[&str]| texts.iter().map(|text| cidr(text)).collect::<Vec<_>>();
        let allow = cidrs(&["10.0.0.1", "10.0.0.7", "10.0.0.8"]);
        let deny = cidrs(&["10.0.0.2", "10.0.0.5"]);
        let file = |allow: &[Cidr], deny: &[Cidr]| FileLists {
            allow: allow.to_vec(),
            deny: deny.to_vec(),
            notes: Notes::default(),
        };
        let Load { changes, summary, .. } = load(&entries, file(&allow, &deny), 0).expect("a plan");
        let shown: Vec<_> = changes
            .iter()
            .map(|change| (change.prefix.to_string(), change.after.map(|after| after.list)))
            .collect();
        let shown: Vec<_> = shown.iter().map(|(prefix, list)| (prefix.as_str(), *list)).collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.2", Some(List::Deny)),
                ("10.0.0.3", None),
                ("10.0.0.7", Some(List::Allow)),
                ("10.0.0.8", Some(List::Allow)),
            ]
        );
        assert_eq!(summary, LoadSummary { written: 3, removed: 1, overruled: vec![cidr("10.0.0.5")] });
        assert!(
            load(&entries, file(&allow, &allow), 0)
                .is_err_and(|error| error.to_string().contains("10.0.0.1 is in"))
        );
        assert!(load(&entries, file(&cidrs(&["10.0.0.1/8"]), &[]), 0).is_err());
    }

    #[test]
    fn not_all_of_many_are_named() {
        let many: Vec<Cidr> = (0..12).map(|last| cidr(&format!("10.0.0.{last}"))).collect();
        assert!(names(&many).ends_with("10.0.0.9 and 2 more"));
        assert_eq!(names(&many[..2]), "10.0.0.0, 10.0.0.1");
    }
}
