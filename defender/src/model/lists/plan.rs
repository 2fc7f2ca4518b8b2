//! What is to be changed on the lists. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use defender_common::abi;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        lists::entry::{self, Entry, List, Listing, Origin},
        prefix::Cidr,
    },
    problem::Problem,
};

/// So many prefixes are named in one message.
const NAMED: usize = 10;

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
    /// Prefixes that were on the other list.
    pub moved: Vec<Cidr>,
}

/// Puts prefixes on a list, by hand.
pub fn add(list: List, before: &BTreeMap<Cidr, Option<Listing>>) -> Addition {
    let wanted = Listing { list, origin: Origin::Hand };
    let mut addition = Addition::default();
    for (prefix, before) in before {
        match before {
            None => addition.added += 1,
            Some(before) if before.list == list => addition.already += 1,
            Some(_) => addition.moved.push(*prefix),
        }
        if *before != Some(wanted) {
            addition.changes.push(Change { prefix: *prefix, before: *before, after: Some(wanted) });
        }
    }
    addition
}

/// Takes prefixes off a list; all of them, or none.
pub fn remove(list: List, before: &BTreeMap<Cidr, Option<Listing>>) -> Result<Vec<Change>> {
    let is_on_it = |before: &Option<Listing>| before.is_some_and(|before| before.list == list);
    let missing: Vec<Cidr> =
        before.iter().filter(|(_, before)| !is_on_it(before)).map(|(prefix, _)| *prefix).collect();
    if !missing.is_empty() {
        let (name, names) = (list.name(), names(&missing));
        bail!("not on the {name} list: {names}; nothing was changed. `defender {name} list` shows the list");
    }
    Ok(before
        .iter()
        .map(|(prefix, before)| Change { prefix: *prefix, before: *before, after: None })
        .collect())
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

/// Replaces what comes from the file by what is in it now, and leaves what was added by hand.
pub fn load(entries: &[Entry], allow: &[Cidr], deny: &[Cidr]) -> Result<(Vec<Change>, LoadSummary), Problem> {
    let mut wanted = wanted(allow, deny)?;
    let mut summary = LoadSummary::default();
    let mut changes = Vec::new();
    for Entry { prefix, listing } in entries {
        let after = wanted.remove(prefix).map(|list| Listing { list, origin: Origin::File });
        match (listing.origin, after) {
            (Origin::Hand, Some(after)) if after.list != listing.list => summary.overruled.push(*prefix),
            (Origin::Hand, _) | (Origin::Session, None) => {}
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
    let file = |list| Some(Listing { list, origin: Origin::File });
    changes.extend(wanted.into_iter().map(|(prefix, list)| Change {
        prefix,
        before: None,
        after: file(list),
    }));
    Ok((changes, summary))
}

/// Whether a file's lists can be loaded, onto no others.
pub fn check(allow: &[Cidr], deny: &[Cidr]) -> Result<(), Problem> {
    let number = wanted(allow, deny)?.len();
    if number > abi::MOST_PREFIXES as usize {
        let most = abi::MOST_PREFIXES;
        return Err(Problem::Usage(format!(
            "the lists hold at most {most} prefixes, and these are {number}"
        )));
    }
    Ok(())
}

fn wanted(allow: &[Cidr], deny: &[Cidr]) -> Result<BTreeMap<Cidr, List>, Problem> {
    let mut wanted: BTreeMap<Cidr, List> = allow.iter().map(|prefix| (*prefix, List::Allow)).collect();
    for prefix in deny {
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
    let first: Vec<String> = prefixes.iter().take(NAMED).map(Cidr::to_string).collect();
    match prefixes.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    fn listing(list: List, origin: Origin) -> Listing {
        Listing { list, origin }
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
                moved: vec![cidr("10.3.0.0/16")],
            }
        );
        let counts = ListCounts { allowed: 5, denied: 7 }.after(&addition.changes);
        assert_eq!((counts, counts.total()), (ListCounts { allowed: 4, denied: 9 }, 13));
    }

    #[test]
    fn all_are_removed_or_none() {
        let allowed = Some(listing(List::Allow, Origin::Hand));
        let denied = Some(listing(List::Deny, Origin::Hand));
        let error =
            remove(List::Allow, &before(&[("10.0.0.1", allowed), ("10.0.0.2", denied), ("10.0.0.3", None)]));
        let error = error.expect_err("two are missing").to_string();
        assert!(error.starts_with("not on the allow list: 10.0.0.2, 10.0.0.3; nothing"), "{error}");
        let changes = remove(List::Allow, &before(&[("10.0.0.1", allowed)])).expect("it is there");
        assert_eq!(changes, [Change { prefix: cidr("10.0.0.1"), before: allowed, after: None }]);
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
        let (changes, summary) = load(&entries, &allow, &deny).expect("a plan");
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
            load(&entries, &allow, &allow).is_err_and(|error| error.to_string().contains("10.0.0.1 is in"))
        );
        assert!(load(&entries, &cidrs(&["10.0.0.1/8"]), &[]).is_err());
    }

    #[test]
    fn not_all_of_many_are_named() {
        let many: Vec<Cidr> = (0..12).map(|last| cidr(&format!("10.0.0.{last}"))).collect();
        assert!(names(&many).ends_with("10.0.0.9 and 2 more"));
        assert_eq!(names(&many[..2]), "10.0.0.0, 10.0.0.1");
    }
}
