//! What the end-to-end tests share: the defender in a namespace, and its counters.

pub(crate) mod kernel;
pub(crate) mod process;
pub(crate) mod screen;
pub(crate) mod scripted_client;
pub(crate) mod traffic;

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Sub,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client::{self, Load, SPEAKS_AFTER},
    controller::{Controller, STATE_DIRECTORY, state_directory},
    interface,
    server::GREETING,
    topology::{SERVER_INTERFACE, Topology},
};
use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_defender");

/// Deadline for what happens by itself. Generous: the machine may be slow and busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Deadline for a client. It allows for the first retransmissions of a SYN; tests about losses check the counters.
pub(crate) const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Starts the defender on the server's interface and waits until it is attached. It then knows every present listener.
pub(crate) fn start<'a>(bed: &'a Topology, arguments: &[&str]) -> Result<Controller<'a>> {
    let defender = Controller::start(&bed.server, Path::new(PROGRAM), bed.server_device(), arguments)?;
    // `stats` works before that: the program for generic mode is verified last.
    eventually("it is attached", || Ok(defender.statistics()?["interfaces"][0]["xdp_mode"] != "none"))?;
    Ok(defender)
}

/// Starts the defender in mode `always` and waits until SYNs to these ports are challenged.
pub(crate) fn start_always<'a>(bed: &'a Topology, ports: &[u16]) -> Result<Controller<'a>> {
    let defender = start(bed, &["--mode", "always"])?;
    for port in ports {
        wait_active(&defender, *port)?;
    }
    Ok(defender)
}

/// Runs the program in the server's namespace to its end.
pub(crate) fn run(bed: &Topology, pins: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = bed.server.command(PROGRAM)?;
    command.env(STATE_DIRECTORY, state_directory(pins));
    Ok(command.args(arguments).arg("--pin-root").arg(pins).output()?)
}

/// Connects and reads the server's greeting.
pub(crate) fn connect(bed: &Topology, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = client::connect_from(&bed.client, Some(from), to, CLIENT_PATIENCE)?;
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    read_greeting(&mut stream).with_context(|| format!("{to} does not greet"))?;
    Ok(stream)
}

/// Like [`connect`], during a flood. The flood may push the final ACK of the handshake out of the ring, and nobody sends
/// that again. So a client that gets no greeting speaks first; returns whether it had to.
pub(crate) fn connect_in_flood(
    bed: &Topology,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(TcpStream, bool)> {
    let mut stream = client::connect_from(&bed.client, Some(from), to, CLIENT_PATIENCE)?;
    stream.set_read_timeout(Some(SPEAKS_AFTER))?;
    let is_greeted = read_greeting(&mut stream).is_ok();
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    if !is_greeted {
        stream.write_all(WORD)?;
        read_greeting(&mut stream).with_context(|| format!("{to} does not greet"))?;
        read_echo(&mut stream)?;
    }
    Ok((stream, !is_greeted))
}

/// What a client sends.
const WORD: &[u8; 1] = b"?";

fn read_greeting(stream: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    ensure!(byte == [GREETING], "the greeting is {byte:?}");
    Ok(())
}

fn read_echo(stream: &mut TcpStream) -> Result<()> {
    let mut echo = [0];
    stream.read_exact(&mut echo)?;
    ensure!(&echo == WORD, "the echo is {echo:?}");
    Ok(())
}

/// Sends a byte and waits for its echo.
pub(crate) fn talk(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(WORD)?;
    read_echo(stream)
}

/// Connects clients from the other side's kernel, and returns how many. Each must get in with all TCP options, at the second
/// try if need be.
pub(crate) fn clients_connect(bed: &Topology, server: SocketAddr) -> Result<u32> {
    let load = Load { deadline: PATIENCE, ..Load::new(bed, server) };
    let report = load.with(bed, 100.0, Duration::from_millis(500)).run(&bed.client)?;
    let (refused, timed_out) = report.failed();
    ensure!(refused + timed_out == 0, "{refused} refused, {timed_out} gave up");
    let (spoke, all) = (report.spoke(), report.clients.len());
    ensure!(spoke * 2 < all, "{spoke} of {all} spoke first");
    let poor = report.greeted().find(|greeted| !greeted.info.has_all_options());
    ensure!(poor.is_none(), "not all options: {poor:?}");
    Ok(all as u32)
}

/// Waits until this port has a service and every one of them is challenged.
pub(crate) fn wait_active(defender: &Controller<'_>, port: u16) -> Result<()> {
    eventually(&format!("port {port} is challenged"), || {
        let services = services(defender, port)?;
        Ok(!services.is_empty() && services.iter().all(|service| service["active"] == true))
    })
}

/// The services on this port, as `status --json` shows them.
pub(crate) fn services(defender: &Controller<'_>, port: u16) -> Result<Vec<Value>> {
    let status = status(defender)?;
    let services = status["services"].as_array().context("no services in the status")?;
    Ok(services.iter().filter(|service| service["port"] == port).cloned().collect())
}

/// What `status --json` shows.
pub(crate) fn status(defender: &Controller<'_>) -> Result<Value> {
    defender.status()
}

/// Waits until `condition` holds; `what` says what was waited for in vain.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "not after {} s: {what}", PATIENCE.as_secs());
        thread::sleep(POLL);
    }
    Ok(())
}

/// The counts since `before`, as soon as `condition` holds: the last packets may still be in flight.
pub(crate) fn counts_when(
    defender: &Controller<'_>,
    before: &Counts,
    what: &str,
    condition: impl Fn(&Counts) -> bool,
) -> Result<Counts> {
    let mut counts = before.clone();
    eventually(what, || {
        counts = &Counts::of(defender)? - before;
        Ok(condition(&counts))
    })
    .with_context(|| counts.to_string())?;
    Ok(counts)
}

/// How many packets the interface received and the defender did not count, at a moment without traffic.
pub(crate) fn unseen(bed: &Topology, defender: &Controller<'_>) -> Result<i64> {
    let received =
        || -> Result<i64> { Ok(interface::statistics(&bed.server, SERVER_INTERFACE)?.rx_packets as i64) };
    let mut unseen = 0;
    eventually("nothing comes for a moment", || {
        let before = received()?;
        unseen = before - Counts::of(defender)?.get("rx_packets") as i64;
        Ok(before == received()?)
    })?;
    Ok(unseen)
}

/// All counters and verdicts at one moment, or their increase.
///
/// Verdicts go by their names (`drop.ack_bad_cookie`), counters too (`syn_challenged`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// The present counts.
    pub(crate) fn of(defender: &Controller<'_>) -> Result<Self> {
        let statistics = defender.statistics()?;
        let mut counts = BTreeMap::new();
        for part in ["verdicts", "counters"] {
            let part = statistics[part].as_object().with_context(|| format!("no {part}"))?;
            for (name, value) in part {
                counts.insert(name.clone(), value.as_u64().with_context(|| format!("{name} is no count"))?);
            }
        }
        Ok(Self(counts))
    }

    /// One counter. An unknown name fails the test.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no counter {name}"))
    }

    /// Asserts that these counters have these values.
    #[track_caller]
    pub(crate) fn assert(&self, expected: &[(&str, u64)]) {
        for (name, value) in expected {
            assert_eq!(self.get(name), *value, "{name}; all that counted:\n{self}");
        }
    }

    /// Asserts that all counters with this prefix are 0, except those named.
    #[track_caller]
    pub(crate) fn assert_none_but(&self, prefix: &str, but: &[&str]) {
        for name in but {
            self.get(name);
        }
        for (name, value) in self.0.iter().filter(|(name, _)| name.starts_with(prefix)) {
            assert!(*value == 0 || but.contains(&name.as_str()), "{name} counted; all:\n{self}");
        }
    }

    /// Asserts that nothing was dropped except for these reasons, nothing was malformed, and no hand-off failed.
    #[track_caller]
    pub(crate) fn assert_no_drops_but(&self, but: &[&str]) {
        self.assert_none_but("drop.", but);
        self.assert(&[("malformed", 0), ("handoff_failed", 0)]);
    }

    /// Asserts that this many connections were made with cookies, each challenged once and assigned once, without a drop.
    #[track_caller]
    pub(crate) fn assert_connections(&self, number: u64) {
        self.assert(&[("syn_received", number), ("syn_challenged", number), ("syn_passed", 0)]);
        self.assert_handed_over(number);
        self.assert_no_drops_but(&[]);
    }

    /// Asserts that this many connections were assigned, and that every accepted cookie is accounted for.
    #[track_caller]
    pub(crate) fn assert_handed_over(&self, number: u64) {
        // The first data may arrive before the kernel has the connection, and proves the cookie once more.
        let again = self.get("handoff_repeated") + self.get("handoff_already_known");
        self.assert(&[
            ("ack_accepted", number + again),
            ("handoff_assigned", number),
            ("handoff_established", number),
        ]);
    }
}

impl Sub for &Counts {
    type Output = Counts;

    /// What was counted since `before`.
    fn sub(self, before: &Counts) -> Counts {
        Counts(self.0.iter().map(|(name, value)| (name.clone(), value - before.get(name))).collect())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .filter(|(_, value)| **value != 0)
            .try_for_each(|(name, value)| writeln!(formatter, "  {name} {value}"))
    }
}
