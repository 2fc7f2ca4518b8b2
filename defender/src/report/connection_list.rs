//! The connections to services as the kernel and the flow table have them: read, and counted by state. `conns` shows them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use defender_common::{abi::Listed, flow::Admitted, tcp_state::State};

use crate::{
    dataplane::{clock, flows, pins::PinRoot},
    model::prefix::address_of,
    report::table,
};

/// The states that a connection to a service can be in, in the order of its life.
pub const STATES: [State; 8] = [
    State::SynRecv,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];

/// A connection to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's state.
    pub state: State,
    /// The client.
    pub remote: SocketAddr,
    /// This host's end.
    pub local: SocketAddr,
    /// The id of its service.
    pub service: u32,
    /// The flow table's entry, or `None` if the table had no room.
    pub tracked: Option<TrackedFlow>,
}

/// The flow table's entry of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedFlow {
    /// The state derived from the packets. It differs from the kernel's for a moment, or if a packet
    /// bypassed the datapath.
    pub wire_state: State,
    /// How it was admitted.
    pub admitted: Admitted,
    /// Time since it was first recorded, accurate to a second or two.
    pub age: Duration,
    /// Packets so far, both ways.
    pub packets: u32,
}

/// All connections to services. Takes about 0.1 s for 100,000.
pub fn read(root: &PinRoot) -> Result<Vec<Connection>> {
    let now = clock::now()?.second;
    Ok(flows::list(root)?.iter().filter_map(|line| Connection::from_abi(line, now)).collect())
}

/// The number of connections in each state, including states with none.
pub fn count<'a>(connections: impl Iterator<Item = &'a Connection>) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<_, _> = STATES.map(|state| (state.name(), 0)).into();
    for connection in connections {
        *counts.entry(connection.state.name()).or_default() += 1;
    }
    counts
}

/// The same for each service.
pub fn count_by_service(connections: &[Connection]) -> BTreeMap<u32, BTreeMap<&'static str, u64>> {
    let mut services: BTreeMap<u32, BTreeMap<_, _>> = BTreeMap::new();
    for connection in connections {
        let counts = services.entry(connection.service).or_insert_with(|| count([].iter()));
        *counts.entry(connection.state.name()).or_default() += 1;
    }
    services
}

/// States that are shown whether or not a connection is in them.
const USUAL: [State; 2] = [State::SynRecv, State::Established];

/// A table of connections by state, a row for each of `rows`. Where there is little room, other states that no connection is in
/// are left out.
pub(super) fn table(
    what: &str,
    rows: &[(String, &BTreeMap<&str, u64>)],
    with_sums: bool,
    width: usize,
) -> String {
    let table = |states: &[State], names: fn(State) -> String| {
        let sums = with_sums.then(|| "all".to_owned());
        let head: Vec<String> =
            [what.to_owned()].into_iter().chain(states.iter().copied().map(names)).chain(sums).collect();
        let rows = rows.iter().map(|(name, counts)| {
            let counts = states.iter().map(|state| counts.get(state.name()).copied().unwrap_or(0));
            let sum = with_sums.then(|| counts.clone().sum());
            [name.clone()].into_iter().chain(counts.chain(sum).map(|count: u64| count.to_string())).collect()
        });
        (head, rows.collect::<Vec<Vec<String>>>())
    };
    let (head, cells) = table(&STATES, |state| state.name().to_owned());
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    if table::fits(&head, &cells, width) {
        return table::render(&head, &cells);
    }
    let occupied = |state: &State| {
        let count = |(_, counts): &(String, &BTreeMap<&str, u64>)| counts.get(state.name()).copied();
        USUAL.contains(state) || rows.iter().filter_map(count).any(|count| count != 0)
    };
    let occupied: Vec<State> = STATES.into_iter().filter(occupied).collect();
    let (head, cells) = table(&occupied, |state| state.name().replace('_', "_\n"));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    table::fit(&head, &cells, width)
}

/// The number of listed connections of each service, in the order of [`STATES`].
#[cfg(feature = "metrics")]
pub(super) fn states_by_service(listed: &[Listed]) -> BTreeMap<u32, [u64; STATES.len()]> {
    let mut services = BTreeMap::<_, [u64; STATES.len()]>::new();
    for line in listed {
        let state = State::from_kernel(line.state);
        if let Some(index) = STATES.iter().position(|counted| Some(*counted) == state) {
            services.entry(line.service).or_default()[index] += 1;
        }
    }
    services
}

impl Connection {
    pub(super) fn from_abi(line: &Listed, now: u32) -> Option<Self> {
        let state = State::from_kernel(line.state).filter(|state| STATES.contains(state))?;
        let tracked = TrackedFlow::from_abi(line, now);
        let end = |address: [u8; 16], port| SocketAddr::new(address_of(address), port);
        Some(Self {
            state,
            remote: end(line.remote, line.remote_port),
            local: end(line.local, line.local_port),
            service: line.service,
            tracked,
        })
    }
}

impl TrackedFlow {
    fn from_abi(line: &Listed, now: u32) -> Option<Self> {
        Some(Self {
            wire_state: State::from_kernel(line.wire_state)?,
            admitted: Admitted::from_abi(line.admitted)?,
            age: Duration::from_nanos(u64::from(now.saturating_sub(line.began)) << 30),
            packets: line.packets,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn line(state: State) -> Listed {
        let remote = "::ffff:192.0.2.7".parse::<Ipv6Addr>().expect("an address").octets();
        Listed { remote, remote_port: 5, local_port: 80, state: state as u8, ..Listed::default() }
    }

    #[test]
    fn untracked_connections_say_so() {
        let connection = Connection::from_abi(&line(State::TimeWait), 9).expect("a connection");
        assert_eq!(connection.remote, "192.0.2.7:5".parse().expect("an address"));
        assert_eq!(connection.tracked, None);
        assert_eq!(Connection::from_abi(&Listed { state: 10, ..line(State::TimeWait) }, 9), None);
    }

    #[test]
    fn ages_are_in_seconds_or_so() {
        let line = Listed { wire_state: 1, admitted: 2, packets: 3, began: 7, ..line(State::Established) };
        let tracked =
            Connection::from_abi(&line, 9).and_then(|connection| connection.tracked).expect("tracked");
        assert_eq!((tracked.age.as_secs(), tracked.packets), (2, 3));
        assert_eq!((tracked.wire_state, tracked.admitted), (State::Established, Admitted::Cookie));
        // The datapath's clock may be slightly ahead.
        assert_eq!(TrackedFlow::from_abi(&line, 6).map(|tracked| tracked.age), Some(Duration::ZERO));
    }

    #[test]
    fn where_there_is_little_room_empty_states_are_left_out() {
        let counts = count([].iter());
        let rows = [("10.0.0.1:80".to_owned(), &counts)];
        let narrow = "                  SYN_\n  CONNECTIONS TO  RECV  ESTABLISHED\n  10.0.0.1:80        0            0\n";
        assert_eq!(table("connections to", &rows, false, 80), narrow);
        assert!(table("connections to", &rows, false, usize::MAX).contains("TIME_WAIT"));
        let closing = BTreeMap::from([("CLOSING", 7)]);
        let rows = [("10.0.0.1:80".to_owned(), &closing)];
        let text = table("port", &rows, true, 80);
        assert!(text.contains("CLOSING  ALL\n") && text.ends_with("7    7\n"), "{text}");
    }

    #[test]
    fn every_state_is_counted_even_if_empty() {
        let connections: Vec<_> = [State::Closing, State::Closing]
            .iter()
            .filter_map(|state| Connection::from_abi(&line(*state), 0))
            .collect();
        let counts = count(connections.iter());
        assert_eq!(counts.len(), STATES.len());
        assert_eq!((counts["CLOSING"], counts["ESTABLISHED"]), (2, 0));
    }
}
