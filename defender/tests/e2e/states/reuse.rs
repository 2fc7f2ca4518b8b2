//! Names that are used again: a new connection is a new one, and what the kernel has forgotten is nobody's.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use anyhow::{Result, ensure};
use defender_common::{flow::Admitted, tcp_state::State};

use crate::{
    harness::{
        kernel::read_exactly,
        scripted_client::{KINDS, Wire},
        start, start_always,
    },
    states::bed::{Bed, Listing, Owner, PORT, Pair, list},
};

/// Both ends hear each other.
fn talk(pair: &mut Pair<'_>) -> Result<()> {
    let (Some(client), Some(server)) = (&mut pair.client, &mut pair.server) else {
        anyhow::bail!("an end is gone")
    };
    client.write_all(b"ping")?;
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes)?;
    server.write_all(&bytes)?;
    client.read_exact(&mut bytes)?;
    ensure!(&bytes == b"ping", "other bytes came");
    Ok(())
}

/// Ends a connection in some way, and begins another with the same addresses and ports.
fn again(
    end: impl Fn(&Bed, &mut Pair<'_>) -> Result<()>,
    check: impl Fn(&str, SocketAddr, &Listing),
) -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let topology = &bed.topology;
        let defender = if mode == "always" {
            start_always(topology, &[80])?
        } else {
            start(topology, &["--mode", mode])?
        };
        for listener in &bed.listeners {
            let mut first = bed.connect(listener)?;
            for _ in 0..20 {
                talk(&mut first)?;
            }
            end(&bed, &mut first)?;
            let remote = first.remote;
            drop(first);
            let listing = list(topology, defender.pin_root())?;
            check(mode, remote, &listing);
            let mut second = bed.connect_from(remote, listener)?;
            talk(&mut second)?;
            second.wait(State::Established)?;
            let listing = list(topology, defender.pin_root())?;
            let tracked = listing[&remote].tracked.expect("it is tracked");
            assert_eq!(tracked.wire_state, State::Established, "{mode}");
            assert!(tracked.packets < 20, "{mode}: it goes on counting the last one's: {tracked:?}");
        }
        assert_eq!(defender.counter("flows_established")?, 4, "{mode}");
    }
    Ok(())
}

/// There is no such connection any more.
fn gone(mode: &str, remote: SocketAddr, listing: &Listing) {
    assert!(!listing.contains_key(&remote), "{mode}: {:?}", listing[&remote]);
}

#[test]
fn after_time_wait() -> Result<()> {
    let end = |_: &Bed, pair: &mut Pair<'_>| {
        pair.bring(State::TimeWait, Owner::Nobody)?;
        drop(pair.client.take());
        Ok(())
    };
    again(end, |mode, remote, listing| {
        let connection = &listing[&remote];
        assert_eq!(connection.state, State::TimeWait, "{mode}");
        assert_eq!(connection.tracked.map(|tracked| tracked.wire_state), Some(State::TimeWait), "{mode}");
    })
}

#[test]
fn after_a_reset_by_the_client() -> Result<()> {
    let end = |_: &Bed, pair: &mut Pair<'_>| {
        pair.abort_client()?;
        pair.wait_gone()
    };
    again(end, gone)
}

#[test]
fn after_a_reset_by_the_server() -> Result<()> {
    let end = |_: &Bed, pair: &mut Pair<'_>| {
        pair.abort_server()?;
        pair.wait_gone()
    };
    again(end, gone)
}

#[test]
fn after_both_ends_were_closed_the_client_first() -> Result<()> {
    let end = |bed: &Bed, pair: &mut Pair<'_>| {
        // Else its own kernel keeps the client from using the port again.
        bed.topology.client.set_sysctl("net.ipv4.tcp_max_tw_buckets", 0)?;
        pair.bring(State::CloseWait, Owner::Process)?;
        pair.close_server(Owner::Nobody)?;
        drop(pair.client.take());
        pair.wait_gone()
    };
    again(end, gone)
}

/// Seconds after which the kernel gives up; long enough to be seen before.
const FIN_TIMEOUT: u32 = 4;

/// The kernel gives up FIN_WAIT2 without a process, and tells nobody: the socket that ended was another one.
#[test]
fn after_the_kernel_gave_up_fin_wait2() -> Result<()> {
    let end = |bed: &Bed, pair: &mut Pair<'_>| {
        bed.topology.server.set_sysctl("net.ipv4.tcp_fin_timeout", FIN_TIMEOUT)?;
        pair.bring(State::FinWait2, Owner::Nobody)?;
        pair.wait_gone()?;
        pair.abort_client()
    };
    again(end, gone)
}

/// The same, and nothing is heard of the client until its next SYN.
#[test]
fn after_the_kernel_gave_up_fin_wait2_and_the_client_did_too() -> Result<()> {
    let end = |bed: &Bed, pair: &mut Pair<'_>| {
        bed.topology.server.set_sysctl("net.ipv4.tcp_fin_timeout", FIN_TIMEOUT)?;
        pair.bring(State::FinWait2, Owner::Nobody)?;
        // Its RST is lost.
        bed.lose_from(pair.remote)?;
        pair.abort_client()?;
        bed.keep_from(pair.remote)?;
        pair.wait_gone()
    };
    again(end, gone)
}

/// A SYN that passes here and that the kernel drops leaves a half-open entry. The client's next attempt has another
/// sequence number.
#[test]
fn after_a_syn_that_the_kernel_dropped() -> Result<()> {
    let bed = Bed::new()?;
    let attachment = bed.attach("monitor")?;
    let wire = Wire::new(&bed.topology)?;
    for listener in &bed.listeners {
        for (step, kind) in [(0x4000_0000_u32, KINDS[0]), (0xc000_0000, KINDS[1])] {
            let mut client = wire.client(listener.address, kind)?;
            nft(
                &bed,
                &format!(
                    "add table inet deaf {{ chain in {{ type filter hook input priority 0; tcp dport {PORT} drop; }}; }}"
                ),
            )?;
            client.send(&[client.syn()])?;
            client.expect_silence()?;
            nft(&bed, "delete table inet deaf")?;
            client.isn = client.isn.wrapping_add(step);
            client.greet()?;
            client.send(&[client.ack()])?;
            let mut accepted = listener.accept()?;
            client.send(&[client.data(0, b"data")])?;
            read_exactly(&mut accepted, b"data")?;
            drop(accepted);
            client.until("the end", |got| got.end && got.acknowledged == 4)?;
            client.send(&[client.fin(4)])?;
            client.until("its end to be acknowledged", |got| got.acknowledged == 5)?;
            let found = &attachment.list()?[&client.from];
            let told = found.tracked.map(|tracked| (tracked.wire_state, tracked.admitted));
            assert_eq!(found.state, State::TimeWait);
            assert_eq!(told, Some((State::TimeWait, Admitted::Handshake)), "{step:x}");
        }
    }
    Ok(())
}

fn nft(bed: &Bed, commands: &str) -> Result<()> {
    let output = bed.topology.server.command("nft")?.arg(commands).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
