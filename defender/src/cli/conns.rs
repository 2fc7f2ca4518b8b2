//! `conns`.

use anyhow::Result;

use super::{ConnsArguments, SortKey, output::show};
use crate::{
    dataplane::pins::PinRoot,
    report::{
        connections::{self, Connection},
        conns::{self, ConnsSummary, Filter, Order},
    },
};

pub(super) fn conns(root: &PinRoot, arguments: &ConnsArguments) -> Result<()> {
    root.require_attached()?;
    let connections = chosen(connections::list(root)?, arguments);
    show(&if arguments.summary {
        summary(&connections, arguments)?
    } else {
        listing(connections, arguments)?
    })
}

fn chosen(mut connections: Vec<Connection>, arguments: &ConnsArguments) -> Vec<Connection> {
    let filter = Filter {
        states: arguments.state.clone(),
        ports: arguments.port.clone(),
        sources: arguments.source.clone(),
    };
    connections.retain(|connection| filter.wants(connection));
    connections
}

fn summary(connections: &[Connection], arguments: &ConnsArguments) -> Result<String> {
    let summary = ConnsSummary::of(connections);
    Ok(if arguments.output.is_json() { summary.json()? + "\n" } else { summary.text() })
}

fn listing(mut connections: Vec<Connection>, arguments: &ConnsArguments) -> Result<String> {
    conns::sort(&mut connections, arguments.sort.into());
    let limit = arguments.limit.map(|limit| limit as usize);
    Ok(if arguments.output.is_json() {
        conns::json(&connections, limit)? + "\n"
    } else {
        conns::text(&connections, limit)
    })
}

impl From<SortKey> for Order {
    fn from(key: SortKey) -> Self {
        match key {
            SortKey::Age => Self::Age,
            SortKey::Packets => Self::Packets,
            SortKey::State => Self::State,
            SortKey::Peer => Self::Peer,
            SortKey::Port => Self::Port,
        }
    }
}
