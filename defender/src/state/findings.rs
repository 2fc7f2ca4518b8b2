//! What the controller has found out, for other processes.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    model::{attacks::Attack, hooks::HookCounts, triggers::TriggerInputs},
    state::{directory::StateDirectory, json},
};

/// What the controller has found out and the maps do not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Why services cannot be protected, by service id.
    pub unprotectable: BTreeMap<u32, String>,
    /// Attacks under way, by service id.
    #[serde(default)]
    pub attacks: BTreeMap<u32, Attack>,
    /// What triggers are derived from, by service id.
    #[serde(default)]
    pub inputs: BTreeMap<u32, TriggerInputs>,
    /// What else people should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What became of hooks.
    #[serde(default)]
    pub hooks: HookCounts,
}

impl Findings {
    /// What was found out last; none where that is not known.
    pub fn read(directory: &StateDirectory) -> Result<Option<Self>> {
        json::read(&directory.findings())
    }

    /// Whether the file is missing, so that other processes know nothing.
    pub fn are_missing(directory: &StateDirectory) -> bool {
        !directory.findings().is_file()
    }

    /// Writes them for other processes.
    pub fn write(&self, directory: &StateDirectory) -> Result<()> {
        json::write(&directory.findings(), self)
    }

    /// Services whose protection is lost in `next`, and why, or has come back.
    pub fn protection_changes<'a>(&self, next: &'a Self) -> Vec<(u32, Option<&'a str>)> {
        let is_news = |(id, reason): &(&u32, &String)| self.unprotectable.get(id) != Some(reason);
        let lost = next.unprotectable.iter().filter(is_news).map(|(id, reason)| (*id, Some(reason.as_str())));
        let back = self.unprotectable.keys().filter(|id| !next.unprotectable.contains_key(id));
        lost.chain(back.map(|id| (*id, None))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_for_a_service_is_reported_once() {
        let findings = |entries: &[(u32, &str)]| Findings {
            unprotectable: entries.iter().map(|(id, reason)| (*id, (*reason).to_owned())).collect(),
            ..Findings::default()
        };
        let before = findings(&[(1, "MPTCP"), (2, "a firewall")]);
        let next = findings(&[(1, "MPTCP"), (3, "NAT")]);
        assert_eq!(before.protection_changes(&next), [(3, Some("NAT")), (2, None)]);
        assert_eq!(next.protection_changes(&next), []);
        assert_eq!(
            before.protection_changes(&findings(&[(1, "NAT"), (2, "a firewall")])),
            [(1, Some("NAT"))]
        );
    }
}
