//! What `top` shows of a service that was opened, besides the snapshot: its limits and its connections.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use defender_common::tcp_state::State;

use crate::{
    dataplane::pins::PinRoot,
    model::endpoint::Endpoint,
    report::{
        connection_list::{self, Connection},
        conns::{self, Order},
        explain::Defended,
        snapshot,
    },
};

/// So many connections are kept; nobody reads more.
const KEPT: usize = 200;

/// A service's limits and connections.
#[derive(Clone, Debug)]
pub struct Detail {
    /// Limits, and how each came about.
    pub defended: Defended,
    /// The oldest connections, half-open ones last: in a flood there are many, of nobody.
    pub connections: Vec<Connection>,
    /// How many connections there are in each state.
    pub states: BTreeMap<&'static str, u64>,
}

impl Detail {
    /// Reads them.
    pub fn read(root: &PinRoot, endpoint: Endpoint) -> Result<Self> {
        root.require_attached()?;
        let connections = connection_list::read(root)?;
        let defended = snapshot::defended_with(root, endpoint.port, &connections)?;
        let defended = defended.into_iter().find(|defended| defended.endpoint == endpoint);
        let defended = defended.with_context(|| format!("nothing listens on {endpoint} any more"))?;
        Ok(Self::of(defended, connections))
    }

    /// Of all connections, those of the service.
    pub(super) fn of(defended: Defended, mut connections: Vec<Connection>) -> Self {
        connections.retain(|connection| connection.service == defended.id);
        conns::sort(&mut connections, Order::Age);
        connections.sort_by_key(|connection| connection.state == State::SynRecv);
        let states = connection_list::count(connections.iter());
        connections.truncate(KEPT);
        Self { defended, connections, states }
    }
}
