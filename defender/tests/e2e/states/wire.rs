//! What follows from packets alone. Without a controller nothing corrects the flow table by the kernel's sockets.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender::report::connection_list::STATES;
use defender_common::{flow::Admitted, tcp_state::State};
use defender_testbed::{
    capture::Capture,
    frame::{ParsedFrame, flag},
    topology::CLIENT_INTERFACE,
};

use crate::{
    harness::eventually,
    states::bed::{Attachment, Bed, Listing, OWNERS, PORT, Pair},
};

/// Counts what is on the wire at the client's end, by the client.
struct Meter {
    capture: Capture,
    counts: RefCell<BTreeMap<SocketAddr, u32>>,
}

impl Meter {
    fn new(bed: &Bed) -> Result<Self> {
        let capture = Capture::both_ways(&bed.topology.client, CLIENT_INTERFACE)?;
        Ok(Self { capture, counts: RefCell::default() })
    }

    /// Packets of each connection so far.
    fn read(&self) -> Result<BTreeMap<SocketAddr, u32>> {
        let mut counts = self.counts.borrow_mut();
        while let Some(frame) = self.capture.next(Duration::ZERO)? {
            let Some(seen) = frame.tcp() else { continue };
            let remote = if seen.destination.port() == PORT { seen.source } else { seen.destination };
            *counts.entry(remote).or_default() += 1;
        }
        Ok(counts.clone())
    }
}

/// The state expected from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    state: State,
    admitted: Option<Admitted>,
}

/// Waits until exactly these connections are listed, each in its state, by the kernel's word and by the wire's. The kernel
/// may be ahead: it acknowledges some FINs only after a while, and the wire waits for that.
fn assert_listed(attachment: &Attachment<'_>, expected: &BTreeMap<SocketAddr, Expected>) -> Result<()> {
    let mut wrong = Vec::new();
    eventually("connections are listed as expected", || {
        wrong = complaints(&attachment.list()?, expected);
        Ok(wrong.is_empty())
    })
    .with_context(|| format!("{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n")))
}

fn complaints(listing: &Listing, expected: &BTreeMap<SocketAddr, Expected>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (remote, expected) in expected {
        let Some(found) = listing.get(remote) else {
            wrong.push(format!("{expected:?}: not listed"));
            continue;
        };
        let told = found.tracked.map(|tracked| (tracked.wire_state, tracked.admitted));
        // The client of one that was half open before may have sent its SYN again: then that was seen.
        let told = told.filter(|_| expected.state != State::SynRecv || expected.admitted.is_some());
        if found.state != expected.state || told != expected.admitted.map(|way| (expected.state, way)) {
            wrong.push(format!("{expected:?}: {found:?}"));
        }
    }
    let strangers = listing.keys().filter(|remote| !expected.contains_key(*remote));
    wrong.extend(strangers.map(|remote| format!("nobody made {remote}: {:?}", listing[remote])));
    wrong
}

/// Asserts that the packets counted are those that were on the wire since the meter began. Something may be repeated at
/// any time: so both are looked at until they agree, the wire before and after.
///
/// Where the kernel skips a run of the tracepoint's program, that program may miss the end of a socket, and how many segments
/// it had counted. So for each run skipped, and for no more, one connection without a socket may have fewer packets.
fn assert_packets(attachment: &Attachment<'_>, meter: &Meter) -> Result<()> {
    let mut wrong = Vec::new();
    eventually("packets are counted as they are on the wire", || {
        let before = meter.read()?;
        let listing = attachment.list()?;
        let after = meter.read()?;
        let without_socket = attachment.without_socket()?;
        let mut tolerated = attachment.skipped_runs()?;
        wrong.clear();
        for (remote, found) in &listing {
            let on_wire = before.get(remote).copied().unwrap_or(0)..=after.get(remote).copied().unwrap_or(0);
            let Some(tracked) = found.tracked else { continue };
            if on_wire.contains(&tracked.packets) {
                continue;
            }
            if tolerated > 0 && tracked.packets < *on_wire.start() && without_socket.contains(remote) {
                tolerated -= 1;
                continue;
            }
            wrong.push(format!("{on_wire:?} on the wire: {found:?}"));
        }
        Ok(wrong.is_empty())
    })
    .with_context(|| wrong.join("\n"))
}

/// Data goes to and fro, so that numbers of packets differ.
fn exchange(pair: &mut Pair<'_>, times: usize) -> Result<()> {
    let (Some(client), Some(server)) = (&mut pair.client, &mut pair.server) else {
        anyhow::bail!("an end is gone")
    };
    for _ in 0..times {
        let mut bytes = [0; 4];
        client.write_all(b"ping")?;
        server.read_exact(&mut bytes)?;
        server.write_all(&bytes)?;
        client.read_exact(&mut bytes)?;
        ensure!(&bytes == b"ping", "other bytes came");
    }
    Ok(())
}

/// Connections in all of these states, with and without a process at the server's end, over both families.
fn bring_all<'a>(bed: &'a Bed, states: &[State]) -> Result<Vec<(Pair<'a>, State)>> {
    let mut pairs = Vec::new();
    for state in states {
        for owner in OWNERS {
            for listener in &bed.listeners {
                if *state == State::SynRecv {
                    pairs.push((bed.half_open(listener)?, *state));
                    continue;
                }
                let mut pair = bed.connect(listener)?;
                exchange(&mut pair, pairs.len() % 5)?;
                pair.bring(*state, owner).with_context(|| format!("to {state:?}, {owner:?}"))?;
                pairs.push((pair, *state));
            }
        }
    }
    Ok(pairs)
}

fn expected(pairs: &[(Pair<'_>, State)], admitted: Option<Admitted>) -> BTreeMap<SocketAddr, Expected> {
    pairs.iter().map(|(pair, state)| (pair.remote, Expected { state: *state, admitted })).collect()
}

#[test]
fn every_state_is_on_the_wire_in_monitor() -> Result<()> {
    let bed = Bed::new()?;
    let attachment = bed.attach("monitor")?;
    let meter = Meter::new(&bed)?;
    let pairs = bring_all(&bed, &STATES)?;
    assert_listed(&attachment, &expected(&pairs, Some(Admitted::Handshake)))?;
    assert_packets(&attachment, &meter)?;
    assert_eq!(attachment.counter("flows_no_room")?, 0);
    assert_eq!(attachment.counter("flows_pushed_out")?, 0);
    assert_eq!(attachment.counter("flows_opened")?, pairs.len() as u64);
    assert_eq!(attachment.counter("flows_established")?, pairs.len() as u64 - 4);
    Ok(())
}

#[test]
fn every_state_is_on_the_wire_in_always() -> Result<()> {
    let bed = Bed::new()?;
    let attachment = bed.attach("always")?;
    let meter = Meter::new(&bed)?;
    let pairs = bring_all(&bed, &STATES[1..])?;
    assert_listed(&attachment, &expected(&pairs, Some(Admitted::Cookie)))?;
    assert_packets(&attachment, &meter)?;
    assert_eq!(attachment.counter("flows_no_room")?, 0);
    assert_eq!(attachment.counter("flows_opened")?, 0);
    assert_eq!(attachment.counter("flows_established")?, pairs.len() as u64);
    Ok(())
}

#[test]
fn what_was_there_before_is_learnt_in_its_state() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let pairs = bring_all(&bed, &STATES)?;
        let meter = Meter::new(&bed)?;
        let attachment = bed.attach(mode)?;
        let mut expected = expected(&pairs, Some(Admitted::Learnt));
        for expected in expected.values_mut() {
            // Half-open connections are known by their SYN only.
            if expected.state == State::SynRecv {
                expected.admitted = None;
            }
        }
        assert_listed(&attachment, &expected)?;
        drop(meter);
    }
    Ok(())
}

/// From each state in which there is more to come, a connection that was learnt goes on to those that follow.
#[test]
fn what_was_learnt_is_followed() -> Result<()> {
    const WAYS: [(State, State); 7] = [
        (State::Established, State::CloseWait),
        (State::Established, State::FinWait1),
        (State::Established, State::FinWait2),
        (State::Established, State::Closing),
        (State::Established, State::LastAck),
        (State::Established, State::TimeWait),
        (State::Established, State::Established),
    ];
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let mut pairs = Vec::new();
        for (from, to) in WAYS {
            for owner in OWNERS {
                for talks in [0, 3] {
                    for listener in &bed.listeners {
                        pairs.push((bed.bring(listener, from, owner)?, to, owner, talks));
                    }
                }
            }
        }
        let attachment = bed.attach(mode)?;
        let meter = Meter::new(&bed)?;
        let learnt = pairs.iter().map(|(pair, ..)| {
            let admitted = Some(Admitted::Learnt);
            (pair.remote, Expected { state: State::Established, admitted })
        });
        assert_listed(&attachment, &learnt.collect())?;
        let mut expected = BTreeMap::new();
        for (pair, to, owner, talks) in &mut pairs {
            exchange(pair, *talks)?;
            pair.bring(*to, *owner)?;
            expected.insert(pair.remote, Expected { state: *to, admitted: Some(Admitted::Learnt) });
        }
        assert_listed(&attachment, &expected)?;
        assert_packets(&attachment, &meter)?;
    }
    Ok(())
}

/// The second half of what was learnt in the middle of its end.
#[test]
fn ends_that_were_learnt_half_way_are_followed() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let mut pairs = Vec::new();
        for owner in OWNERS {
            for listener in &bed.listeners {
                pairs.push((bed.bring(listener, State::FinWait2, owner)?, State::TimeWait, owner));
                pairs.push((bed.bring(listener, State::FinWait1, owner)?, State::Closing, owner));
                pairs.push((bed.bring(listener, State::CloseWait, owner)?, State::LastAck, owner));
            }
        }
        // The server repeats its FIN at intervals that double: these come last.
        for owner in OWNERS {
            for listener in &bed.listeners {
                pairs.push((bed.bring(listener, State::FinWait1, owner)?, State::FinWait2, owner));
                pairs.push((bed.bring(listener, State::Closing, owner)?, State::TimeWait, owner));
            }
        }
        let attachment = bed.attach(mode)?;
        for (pair, to, _) in &pairs {
            if matches!(to, State::FinWait2 | State::TimeWait) {
                let _ = bed.release(pair.remote);
            }
        }
        let mut expected = BTreeMap::new();
        for (pair, to, owner) in &mut pairs {
            let from = bed.kernel()?.get(&pair.remote).copied();
            match (from, *to) {
                (Some(State::CloseWait), _) => {
                    bed.hold(pair.remote)?;
                    pair.close_server(*owner)?;
                }
                (Some(State::FinWait1), State::Closing) | (Some(State::FinWait2), State::TimeWait) => {
                    pair.close_client()?;
                }
                // It gets there by itself, if it is not there yet.
                _ => {}
            }
            pair.wait(*to)?;
            expected.insert(pair.remote, Expected { state: *to, admitted: Some(Admitted::Learnt) });
        }
        assert_listed(&attachment, &expected)?;
    }
    Ok(())
}

/// A half-open connection whose SYN was seen, and one whose SYN was not, are completed after the attach.
#[test]
fn half_open_connections_are_completed() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let mut pairs = Vec::new();
        for listener in &bed.listeners {
            pairs.push((bed.half_open(listener)?, State::Established));
        }
        let attachment = bed.attach(mode)?;
        for (pair, state) in &pairs {
            bed.release(pair.remote)?;
            pair.wait(*state)?;
        }
        assert_listed(&attachment, &expected(&pairs, Some(Admitted::Handshake)))?;
    }
    Ok(())
}

/// The peer of a RST that the kernel does not believe stays where it is.
#[test]
fn a_reset_that_the_kernel_does_not_believe() -> Result<()> {
    for (mode, way) in [("monitor", Admitted::Handshake), ("always", Admitted::Cookie)] {
        let bed = Bed::new()?;
        let attachment = bed.attach(mode)?;
        let wire = Capture::both_ways(&bed.topology.client, CLIENT_INTERFACE)?;
        let mut pairs = Vec::new();
        for listener in &bed.listeners {
            wire.clear()?;
            let mut pair = bed.connect(listener)?;
            exchange(&mut pair, 1)?;
            let last = last_of_client(&wire, pair.remote)?;
            for offset in [1, 1000, u32::MAX, 0x8000_0000] {
                let forged = defender_testbed::frame::TcpFrame::new(pair.remote, listener.address)
                    .flags(flag::RST)
                    .seq(last.seq.wrapping_add(offset));
                wire.send(forged.build())?;
            }
            thread::sleep(Duration::from_millis(100));
            exchange(&mut pair, 1)?;
            pairs.push((pair, State::Established));
        }
        assert_listed(&attachment, &expected(&pairs, Some(way)))?;
    }
    Ok(())
}

/// The client's last segment, which carries no data.
fn last_of_client(wire: &Capture, remote: SocketAddr) -> Result<ParsedFrame> {
    let seen = wire.tcp_until_quiet(Duration::from_millis(100))?;
    let last = seen.into_iter().rfind(|seen| seen.source == remote && seen.payload.is_empty());
    last.context("the client sent nothing")
}
