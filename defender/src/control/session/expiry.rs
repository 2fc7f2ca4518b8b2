//! Entries of the lists that expire are taken out when it is time. They may be many, so another thread does it.

use anyhow::Result;

use super::Session;
use crate::{
    dataplane::pins::PinRoot,
    host::wall_clock,
    model::lists::plan::{ListCounts, names_of},
    state::lists::{
        Identity, notes_identity,
        turns::{Expired, Turns},
    },
};

/// When it is time.
#[derive(Debug, Default)]
pub(super) struct ExpiryWatch {
    /// The file that said so.
    notes: Option<Identity>,
    next: Option<u64>,
}

impl ExpiryWatch {
    /// By the wall clock, wherever it steps. Whenever the file is another one, it is to be read again.
    fn is_due(&self, notes: Option<Identity>, now: u64) -> bool {
        notes != self.notes || self.next.is_some_and(|next| next <= now)
    }
}

/// What another thread is to do.
pub struct Expiry {
    root: PinRoot,
}

impl Expiry {
    /// Takes out what has expired.
    pub fn run(self) -> Result<Expired> {
        Turns::of(&self.root)?.expire()
    }
}

impl Session {
    /// What is to be done now, if it is time.
    pub fn begin_expiry(&self) -> Option<Expiry> {
        let notes = notes_identity(&self.owner.directory);
        self.expiry.is_due(notes, wall_clock::now()).then(|| Expiry { root: self.root.clone() })
    }

    /// Takes in what was done. After a failure it is tried again.
    pub fn complete_expiry(&mut self, done: Result<Expired>) {
        let Some(expired) = self.owner.complaints.heard("expiry", done) else { return };
        self.expiry = ExpiryWatch { notes: expired.notes, next: expired.next };
        let ListCounts { allowed, denied } = expired.counts;
        if expired.counts.total() != 0 {
            log::info!(
                "expired: {allowed} removed from the allow list, {denied} from the deny list: {}",
                names_of(&expired.first, expired.counts.total())
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_counts_even_if_it_steps() {
        let none = ExpiryWatch::default();
        assert!(!none.is_due(None, u64::MAX), "nothing expires");
        let watch = ExpiryWatch { notes: None, next: Some(5000) };
        assert!(!watch.is_due(None, 4999) && watch.is_due(None, 5000));
        assert!(watch.is_due(None, 1 << 40) && !watch.is_due(None, 0));
    }
}
