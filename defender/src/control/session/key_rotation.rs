//! Key rotation: on time, and early where cookies promise what no longer holds.

use std::time::Instant;

use anyhow::Result;
use defender_common::abi;

use super::{Attached, Session, owner::Turn};
use crate::{
    host::random,
    model::{keys, map_values},
};

impl Session {
    /// Fills a slot of the cookie keys. The other one is written as it is.
    pub(super) fn set_key(&mut self, slot: u32, key: abi::KeySlot) -> Result<()> {
        let mut keys = self.maps.keys.get(0)?;
        keys[(slot & 1) as usize] = key;
        self.maps.keys.set(0, keys)
    }

    /// Draws a new key and makes cookies with it from now on. Nobody else writes keys: a lock that is withheld does not keep
    /// them from being renewed.
    pub fn rotate_keys(&mut self) -> Result<Attached> {
        self.keys.postpone();
        let _write = match self.turn()? {
            Turn::Ours(lock) => Some(lock),
            Turn::Withheld => None,
            Turn::Theirs => return Ok(Attached::Later),
            Turn::Detached => return Ok(Attached::No),
        };
        let mut config = self.maps.config.get(0)?;
        let next = 1 - (config.key_current & 1);
        let epoch = self.maps.keys.get(0)?[(config.key_current & 1) as usize].epoch;
        // What cookies promise belongs to the key: while it changes, neither the old key nor the new one is there.
        self.set_key(next, abi::KeySlot::default())?;
        for (id, service) in &self.services.table.services {
            let mut slot = self.maps.services.get(*id)?;
            if !map_values::is_current(&slot, next, service, &self.host.defaults) {
                (slot.mss[next as usize], slot.window_scale[next as usize]) =
                    map_values::with_key(service, &self.host.defaults);
                self.maps.services.set(*id, slot)?;
            }
        }
        self.set_key(next, keys::next(epoch, random::words()?))?;
        config.key_current = next;
        self.maps.config.set(0, config)?;
        self.keys.drawn(Instant::now());
        Ok(Attached::Yes)
    }

    /// Whether new cookies promise what no longer holds, so that a new key is due before its time. Not too often: a key that
    /// is drawn ends the one before the last.
    pub fn needs_new_key(&self) -> Result<bool> {
        self.keys.is_due(Instant::now(), || self.promises_are_outdated())
    }

    fn promises_are_outdated(&self) -> Result<bool> {
        let current = self.maps.config.get(0)?.key_current;
        for (id, service) in &self.services.table.services {
            if !map_values::is_current(&self.maps.services.get(*id)?, current, service, &self.host.defaults) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
