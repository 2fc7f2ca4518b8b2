//! `conns`.

use anyhow::Result;

use super::{
    ConnsArguments, SortKey,
    output::{Format, width},
};
use crate::{
    dataplane::pins::PinRoot,
    model::listener::Family,
    report::{
        connection_list::{self, Connection},
        conns::{self, ConnsSummary, Filter, Order},
        namespace::require_attached_here,
    },
};

pub(super) fn conns(root: &PinRoot, arguments: &ConnsArguments) -> Result<()> {
    let format = arguments.output.format();
    arguments.watch.run(format, || {
        require_attached_here(root)?;
        let connections = chosen(connection_list::read(root)?, arguments);
        if arguments.summary {
            summary(&connections, arguments, format)
        } else {
            listing(connections, arguments, format)
        }
    })
}

fn chosen(mut connections: Vec<Connection>, arguments: &ConnsArguments) -> Vec<Connection> {
    let filter = Filter {
        states: arguments.state.clone(),
        ports: arguments.port.clone(),
        sources: arguments.source.clone(),
        family: match (arguments.ipv4, arguments.ipv6) {
            (true, false) => Some(Family::V4),
            (false, true) => Some(Family::V6),
            _ => None,
        },
    };
    connections.retain(|connection| filter.wants(connection));
    connections
}

fn summary(connections: &[Connection], arguments: &ConnsArguments, format: Format) -> Result<String> {
    let summary = ConnsSummary::of(connections);
    match format {
        // One a line, if there are several.
        Format::Json => Ok(summary.json(arguments.watch.repeats())? + "\n"),
        Format::Text => Ok(summary.text(&arguments.port_names.names(), width())),
    }
}

fn listing(mut connections: Vec<Connection>, arguments: &ConnsArguments, format: Format) -> Result<String> {
    conns::sort(&mut connections, arguments.sort.into());
    let limit = arguments.limit.map(|limit| limit as usize);
    match format {
        Format::Json => Ok(conns::json(&connections, limit)? + "\n"),
        Format::Text => Ok(conns::text(&connections, limit, &arguments.port_names.names(), width())),
    }
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
