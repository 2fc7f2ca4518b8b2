//! Generations of the presence filter, and the walk through all sockets that fills them.

use std::time::Instant;

use anyhow::Result;

use super::{Attached, Session, owner::Turn};
use crate::dataplane::socket_iter::SocketIter;

impl Session {
    /// Takes the connections that are there already into the flow table. Without, they are not tracked: no reason not to
    /// defend.
    pub(super) fn learn_connections(&mut self) {
        if let Err(error) = self.programs.socket_iter().and_then(SocketIter::run) {
            log::warn!("existing connections are not tracked yet: {error:#}");
        }
    }

    /// Begins a new generation of the filter if it is time: the walk is to be run after [`SETTLE`](crate::model::presence_filter::SETTLE).
    pub fn begin_generation(&mut self) -> Result<Option<SocketIter>> {
        let now = Instant::now();
        if !self.generations.is_due(now) {
            return Ok(None);
        }
        let Turn::Ours(_write) = self.turn()? else { return Ok(None) };
        let socket_iter = self.programs.socket_iter()?;
        self.maps.config.set(0, self.generations.begin(self.maps.config.get(0)?, now))?;
        Ok(Some(socket_iter))
    }

    /// Ends the generation before, after the walk.
    pub fn complete_generation(&mut self) -> Result<Attached> {
        let _write = match self.turn()? {
            Turn::Ours(lock) => lock,
            // The next walk begins where this one did.
            Turn::Theirs | Turn::Withheld => return Ok(Attached::Yes),
            Turn::Detached => return Ok(Attached::No),
        };
        self.maps.config.set(0, self.generations.complete(self.maps.config.get(0)?))?;
        Ok(Attached::Yes)
    }

    /// What is a service's from now on may have connections that the filter has not heard of: it is not asked before the next
    /// walk has told it. To be called before the datapath learns of the service or address.
    pub(super) fn doubt_filter(&mut self) -> Result<()> {
        self.maps.config.set(0, self.generations.doubt(self.maps.config.get(0)?))
    }
}
