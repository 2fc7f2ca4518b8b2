//! A real web server with ten thousand connections, at rest and in floods.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender::report::connection_list::Connection;
use defender_common::{flow::Admitted, tcp_state::State};
use defender_testbed::{
    controller::Controller,
    flood::{Flood, Kind},
    topology::Topology,
};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    harness::{
        Counts, PATIENCE, eventually,
        process::{self, Process, Scratch},
        start, wait_active,
    },
    states::bed::{Listing, kernel_counts, list},
};

const CONNECTIONS: usize = 10_000;
/// Connections of one client address.
const OF_ONE: usize = 200;
/// Open files that either end needs.
const FILES: u64 = 15_000;

/// Lets this process, and those it starts, have as many files as they may.
fn raise_file_limit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(read == 0 && limit.rlim_max >= FILES, "{FILES} open files are needed (ulimit -Hn)");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(raised == 0, "cannot raise the limit of open files: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A web server that is defended.
struct Site<'a> {
    bed: &'a Topology,
    defender: Controller<'a>,
    _nginx: Process,
    _scratch: Scratch,
}

impl<'a> Site<'a> {
    fn new(bed: &'a Topology, mode: &str) -> Result<Self> {
        raise_file_limit()?;
        let scratch = Scratch::new()?;
        bed.server.set_sysctl("net.core.somaxconn", 4096)?;
        bed.server.set_sysctl("net.ipv4.tcp_max_tw_buckets", 100_000)?;
        bed.server.set_sysctl("net.ipv4.tcp_syncookies", 1)?;
        let nginx = process::start_nginx(&bed.server, &scratch)?;
        let defender = start(bed, &["--mode", mode])?;
        if mode == "always" {
            wait_active(&defender, 80)?;
        }
        Ok(Self { bed, defender, _nginx: nginx, _scratch: scratch })
    }

    fn list(&self) -> Result<Listing> {
        list(self.bed, self.defender.pin_root())
    }

    /// Opens connections over both families, and asks for something on each.
    fn open(&self, count: usize, request: &str) -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for group in 0..count / OF_ONE {
            let to = if group % 2 == 0 { self.bed.server_v4(80) } else { self.bed.server_v6(80) };
            let from = self.bed.fresh_client(to);
            streams.extend(self.bed.client.run(|| open_from(from, to, request))?);
        }
        Ok(streams)
    }

    /// Asserts that nothing moves, and that every state is counted as the kernel has it.
    fn assert_at_rest(&self, expected: &[(State, usize)]) -> Result<()> {
        let mut last = BTreeMap::new();
        let wanted = |counts: &BTreeMap<String, u64>| {
            let count = |state: State| counts.get(state.name()).copied().unwrap_or(0) as usize;
            expected.iter().all(|(state, number)| count(*state) == *number)
                && counts.values().sum::<u64>() as usize
                    == expected.iter().map(|(_, number)| number).sum::<usize>()
        };
        eventually("everything is at rest", || {
            last = kernel_counts(self.bed)?;
            Ok(wanted(&last))
        })
        .with_context(|| format!("{last:?}"))?;
        thread::sleep(Duration::from_secs(2));
        let kernel = kernel_counts(self.bed)?;
        let statistics = self.defender.statistics()?;
        let counted: BTreeMap<String, u64> = serde_json::from_value(statistics["states"].clone())?;
        assert_eq!(counted, kernel);
        assert!(wanted(&kernel), "{kernel:?}");
        assert_eq!(statistics["counters"]["flows_no_room"], 0);
        Ok(())
    }

    /// A flood of at most 3 s.
    fn flood(&self) -> Result<u64> {
        let flood = Flood {
            rate: Some(100_000),
            max_packets: 300_000,
            max_time: Duration::from_secs(3),
            ..Flood::new(Kind::LinuxSyn, self.bed.server_v4(80))
        };
        let flood = flood.start(self.bed)?;
        flood.wait_until_running()?;
        thread::sleep(Duration::from_secs(3));
        Ok(flood.stop()?.sent)
    }
}

/// Blocking connections from one address; the answer to each request is read.
fn open_from(from: SocketAddr, to: SocketAddr, request: &str) -> Result<Vec<TcpStream>> {
    (0..OF_ONE).map(|_| open_one(from, to, request)).collect()
}

fn open_one(from: SocketAddr, to: SocketAddr, request: &str) -> Result<TcpStream> {
    let mut stream = crate::states::bed::connect_here(from, to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut bytes = [0; 1024];
    while !answer.ends_with(b"hello\n") {
        let length = stream.read(&mut bytes)?;
        ensure!(length > 0, "the answer ends early");
        answer.extend_from_slice(&bytes[..length]);
    }
    Ok(stream)
}

/// Ends connections, some at a time: where the ring of the veth pair is full, the clients' kernel drops what it sends, and
/// gives up a FIN that was never sent after a few attempts in a row, as of a peer that is not there.
fn close(streams: Vec<TcpStream>) {
    for (number, stream) in streams.into_iter().enumerate() {
        drop(stream);
        if number % 50 == 49 {
            thread::sleep(Duration::from_millis(3));
        }
    }
}

const KEEP: &str = "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
const CLOSE: &str = "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Connections of one state that are tracked so, nearly all.
fn assert_tracked(listing: &Listing, count: usize, state: State, admitted: Admitted) {
    let wrong: Vec<&Connection> = listing
        .values()
        .filter(|one| one.state == state)
        .filter(|one| {
            one.tracked.is_none_or(|tracked| tracked.wire_state != state || tracked.admitted != admitted)
        })
        .collect();
    // Two CPUs that follow packets of one connection at the same time may lose an update of one of them, until the socket iterator runs.
    assert!(wrong.len() <= count / 1000, "{} are tracked otherwise, such as {:?}", wrong.len(), wrong[0]);
    assert_eq!(listing.values().filter(|one| one.state == state).count(), count);
}

#[test]
fn ten_thousand_are_kept_alive_and_closed() -> Result<()> {
    for (mode, way) in [("monitor", Admitted::Handshake), ("always", Admitted::Cookie)] {
        let bed = Topology::new()?;
        let site = Site::new(&bed, mode)?;
        let mut streams = site.open(CONNECTIONS, KEEP)?;
        site.assert_at_rest(&[(State::Established, CONNECTIONS)])?;
        assert_tracked(&site.list()?, CONNECTIONS, State::Established, way);
        // The clients of some end: nginx ends as well, and the clients wait in TIME_WAIT, not the server.
        close(streams.split_off(CONNECTIONS - 2000));
        site.assert_at_rest(&[(State::Established, CONNECTIONS - 2000)])?;
        // Without keep-alive it is the server that waits.
        close(site.open(2000, CLOSE)?);
        site.assert_at_rest(&[(State::Established, CONNECTIONS - 2000), (State::TimeWait, 2000)])?;
        let listing = site.list()?;
        assert_tracked(&listing, CONNECTIONS - 2000, State::Established, way);
        assert_tracked(&listing, 2000, State::TimeWait, way);
        // The others are reset.
        for stream in streams {
            setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        }
        site.assert_at_rest(&[(State::TimeWait, 2000)])?;
        assert_eq!(site.defender.counter("flows_established")?, CONNECTIONS as u64 + 2000, "{mode}");
    }
    Ok(())
}

#[test]
fn ten_thousand_without_keep_alive() -> Result<()> {
    for (mode, way) in [("monitor", Admitted::Handshake), ("always", Admitted::Cookie)] {
        let bed = Topology::new()?;
        let site = Site::new(&bed, mode)?;
        close(site.open(CONNECTIONS, CLOSE)?);
        site.assert_at_rest(&[(State::TimeWait, CONNECTIONS)])?;
        assert_tracked(&site.list()?, CONNECTIONS, State::TimeWait, way);
    }
    Ok(())
}

/// No entry may be another than it was, but older.
fn assert_unmoved(before: &Listing, after: &Listing) {
    let wrong: Vec<String> = before
        .iter()
        .filter_map(|(remote, before)| {
            let after = after.get(remote);
            let same = after.is_some_and(|after| match (before.tracked, after.tracked) {
                (Some(then), Some(now)) => {
                    let aged = now.age >= then.age;
                    aged && now.packets == then.packets
                        && now.admitted == then.admitted
                        && now.wire_state == then.wire_state
                        && after.state == before.state
                }
                _ => false,
            });
            (!same).then(|| format!("{before:?} became {after:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}, such as {}", wrong.len(), before.len(), wrong[0]);
}

#[test]
fn a_flood_that_is_challenged_moves_nobody() -> Result<()> {
    let bed = Topology::new()?;
    let site = Site::new(&bed, "always")?;
    let streams = site.open(CONNECTIONS, KEEP)?;
    site.assert_at_rest(&[(State::Established, CONNECTIONS)])?;
    let (counts, before) = (Counts::of(&site.defender)?, site.list()?);
    assert_tracked(&before, CONNECTIONS, State::Established, Admitted::Cookie);
    let sent = site.flood()?;
    let after = site.list()?;
    assert_eq!(after.len(), CONNECTIONS, "there are others now");
    assert_unmoved(&before, &after);
    let counts = &Counts::of(&site.defender)? - &counts;
    assert!(counts.get("syn_received") > sent / 10, "{sent} were sent\n{counts}");
    counts.assert(&[
        ("syn_passed", 0),
        ("flows_opened", 0),
        ("flows_pushed_out", 0),
        ("flows_established", 0),
        ("flows_no_room", 0),
        ("flows_ended", 0),
    ]);
    site.assert_at_rest(&[(State::Established, CONNECTIONS)])?;
    all_answer(streams)
}

#[test]
fn a_flood_that_is_watched_pushes_nobody_out() -> Result<()> {
    let bed = Topology::new()?;
    let site = Site::new(&bed, "monitor")?;
    let streams = site.open(CONNECTIONS, KEEP)?;
    site.assert_at_rest(&[(State::Established, CONNECTIONS)])?;
    let (counts, before) = (Counts::of(&site.defender)?, site.list()?);
    assert_tracked(&before, CONNECTIONS, State::Established, Admitted::Handshake);
    let sent = site.flood()?;
    let after = site.list()?;
    assert_unmoved(&before, &after);
    let counts = &Counts::of(&site.defender)? - &counts;
    assert!(counts.get("syn_passed") > sent / 10, "{sent} were sent\n{counts}");
    counts.assert(&[("flows_established", 0), ("flows_no_room", 0), ("flows_ended", 0)]);
    assert!(counts.get("flows_opened") > 0, "{counts}");
    all_answer(streams)
}

/// Every connection works on.
fn all_answer(streams: Vec<TcpStream>) -> Result<()> {
    for mut stream in streams {
        stream.write_all(KEEP.as_bytes())?;
        ensure!(stream.read(&mut [0; 1024])? > 0, "a connection was cut");
    }
    Ok(())
}
