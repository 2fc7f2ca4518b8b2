//! The server's sockets, and the counters of its kernel.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::Controller,
    netns::Namespace,
    server::{self, Options, Server},
    topology::Topology,
};

use crate::harness::{Counts, PATIENCE, eventually};

/// How often counters are read to see that they no longer change.
const LOOKS: u32 = 10;

/// A listener whose connections the test accepts itself.
pub(crate) struct Listener {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Listener {
    pub(crate) fn new(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        Self::with(namespace, address, Options { backlog: 128, ..Options::default() })
    }

    pub(crate) fn with(namespace: &Namespace, address: SocketAddr, options: Options) -> Result<Self> {
        let listener = namespace.run(|| server::listen(address, options))?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// The listening socket.
    pub(crate) fn socket(&self) -> &TcpListener {
        &self.listener
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = self.accepted()? {
                return Ok(stream);
            }
            ensure!(Instant::now() < deadline, "no connection to {}", self.address);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A connection in the accept queue, if there is one.
    pub(crate) fn accepted(&self) -> Result<Option<TcpStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Servers that greet on port 80, IPv4 first.
pub(crate) fn servers(bed: &Topology) -> Result<[Server; 2]> {
    Ok([Server::start(&bed.server, bed.server_v4(80))?, Server::start(&bed.server, bed.server_v6(80))?])
}

/// Reads exactly these bytes.
pub(crate) fn read_exactly(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).context("the bytes did not come")?;
    ensure!(bytes == expected, "other bytes came");
    Ok(())
}

/// The counts while `job` ran, and its result. Waits for its last packets.
pub(crate) fn counted<T>(defender: &Controller<'_>, job: impl FnOnce() -> Result<T>) -> Result<(T, Counts)> {
    let before = Counts::of(defender)?;
    let result = job()?;
    let mut after = Counts::of(defender)?;
    for _ in 0..LOOKS {
        let last = std::mem::replace(&mut after, Counts::of(defender)?);
        if after == last {
            break;
        }
    }
    Ok((result, &after - &before))
}

/// Sets a mode for all services.
pub(crate) fn set_mode(defender: &Controller<'_>, mode: &str) -> Result<()> {
    defender.ask(&["set", "mode", mode]).map(drop)
}

/// Connections of the namespace in each state, as the kernel lists them; no listeners.
pub(crate) fn sockets(namespace: &Namespace) -> Result<BTreeMap<String, usize>> {
    let output = namespace.command("ss")?.args(["-Htan"]).output()?;
    let mut states = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let state = line.split_whitespace().next().unwrap_or_default();
        if state != "LISTEN" {
            *states.entry(state.to_owned()).or_default() += 1;
        }
    }
    Ok(states)
}

/// Waits until the namespace has exactly these connections, as `ss` names their states.
pub(crate) fn wait_for_sockets(namespace: &Namespace, expected: &[(&str, usize)]) -> Result<()> {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(state, count)| ((*state).to_owned(), *count)).collect();
    let mut last = BTreeMap::new();
    eventually("the expected sockets are there", || {
        last = sockets(namespace)?;
        Ok(last == expected)
    })
    .with_context(|| format!("expected {expected:?}, there are {last:?}"))
}

/// Asserts that TCP has queued no segment out of order since these counters were read.
pub(crate) fn assert_in_order(namespace: &Namespace, before: &BTreeMap<String, i64>) -> Result<()> {
    const NAME: &str = "TcpExtTCPOFOQueue";
    assert_eq!(kernel_counters(namespace)?[NAME] - before[NAME], 0, "segments overtook each other");
    Ok(())
}

/// The kernel's TCP counters of the namespace by name: `TcpExtListenDrops`, `TcpPassiveOpens` and so on.
pub(crate) fn kernel_counters(namespace: &Namespace) -> Result<BTreeMap<String, i64>> {
    let texts = namespace.run(|| {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        Ok([read("snmp")?, read("netstat")?])
    })?;
    let mut counters = BTreeMap::new();
    for text in texts {
        let lines: Vec<_> = text.lines().collect();
        for [names, values] in lines.as_chunks().0 {
            let group = names.split(':').next().unwrap_or_default();
            let pairs = names.split_whitespace().zip(values.split_whitespace()).skip(1);
            counters.extend(
                pairs.filter_map(|(name, value)| Some((format!("{group}{name}"), value.parse().ok()?))),
            );
        }
    }
    Ok(counters)
}
