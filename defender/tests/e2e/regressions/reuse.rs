//! A SYN with the addresses and ports of something the kernel still holds: the kernel decides, as it does without a defender.

use anyhow::{Result, ensure};
use defender_testbed::{controller::Controller, frame::flag, server::Server, topology::Topology};

use crate::harness::{
    kernel::{Listener, counted, servers, set_mode, wait_for_sockets},
    scripted_client::{ClientKind, KINDS, ScriptedClient, Wire},
    start, start_always, wait_active,
};

const SYN_ACK: u8 = flag::SYN | flag::ACK;

/// Brings a connection to TIME_WAIT at the server.
pub(crate) fn closed_by_server<'w, 'a>(
    wire: &'w Wire<'a>,
    listener: &Listener,
    kind: ClientKind,
) -> Result<ScriptedClient<'w, 'a>> {
    let mut client = wire.greeted(listener.address, kind)?;
    client.send(&[client.ack()])?;
    drop(listener.accept()?);
    client.until("the end", |got| got.end)?;
    client.send(&[client.fin(0)])?;
    client.until("its end to be acknowledged", |got| got.acknowledged == 1)?;
    Ok(client)
}

#[test]
fn a_newer_syn_takes_the_place_of_time_wait() -> Result<()> {
    let bed = Topology::new()?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let listener = Listener::new(&bed.server, address)?;
        let defender = start_always(&bed, &[80])?;
        let wire = Wire::new(&bed)?;
        for kind in KINDS {
            let mut client = closed_by_server(&wire, &listener, kind)?;
            let (_, counts) = counted(&defender, || {
                client.isn = client.isn.wrapping_add(1_000_000);
                client.greet()?;
                client.send(&[client.ack()])?;
                let accepted = listener.accept()?;
                ensure!(accepted.peer_addr()? == client.from, "another client");
                wait_for_sockets(&bed.server, &[("ESTAB", 1)])?;
                client.send(&[client.rst()])?;
                wait_for_sockets(&bed.server, &[])
            })?;
            counts.assert(&[("pass.syn_known", 1), ("syn_challenged", 0), ("handoff_assigned", 0)]);
            counts.assert_no_drops_but(&[]);
        }
    }
    Ok(())
}

/// The kernel answers with an ACK, the client with a RST, and then the way is free.
#[test]
fn an_older_syn_meets_time_wait() -> Result<()> {
    let bed = Topology::new()?;
    let listener = Listener::new(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    // With timestamps a SYN counts as newer by its timestamp.
    let mut client = closed_by_server(&wire, &listener, ClientKind::Windows)?;
    let (_, counts) = counted(&defender, || {
        client.isn = client.isn.wrapping_sub(1_000_000);
        client.send(&[client.syn()])?;
        let seen = client.expect_besides_repeats("an ACK")?;
        ensure!(seen.is(flag::ACK), "TIME_WAIT answers with an ACK: {seen:?}");
        client.send(&[client.rst().seq(seen.ack)])?;
        wait_for_sockets(&bed.server, &[])?;
        client.greet()?;
        client.send(&[client.ack()])?;
        listener.accept()
    })?;
    counts.assert(&[("pass.syn_known", 1), ("syn_challenged", 1), ("handoff_established", 1)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn the_last_fin_is_repeated_in_time_wait() -> Result<()> {
    let bed = Topology::new()?;
    let listener = Listener::new(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let client = closed_by_server(&wire, &listener, ClientKind::Linux)?;
    let (_, counts) = counted(&defender, || {
        client.send(&[client.fin(0)])?;
        let seen = client.expect_besides_repeats("an ACK")?;
        ensure!(seen.is(flag::ACK) && seen.ack == client.isn.wrapping_add(2), "{seen:?}");
        Ok(())
    })?;
    counts.assert(&[("pass.connection", 1)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn a_handshake_begun_before_challenges_is_completed() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start(&bed, &["--mode", "off"])?;
    let wire = Wire::new(&bed)?;
    for mode in ["off", "monitor"] {
        let (_, counts) = counted(&defender, || {
            let mut clients = Vec::new();
            set_mode(&defender, mode)?;
            for server in &servers {
                for kind in KINDS {
                    clients.push(wire.greeted(server.address(), kind)?);
                }
            }
            set_mode(&defender, "always")?;
            wait_active(&defender, 80)?;
            for client in &mut clients {
                client.finish_handshake()?;
                client.talk()?;
            }
            Ok(())
        })?;
        counts.assert(&[("syn_challenged", 0), ("ack_accepted", 0), ("handoff_assigned", 0)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

/// A handshake begun before challenges: the kernel has answered, and waits for the ACK. From now on SYNs are challenged.
fn begun_before_challenges<'w, 'a>(
    defender: &Controller<'_>,
    wire: &'w Wire<'a>,
    server: &Server,
    kind: ClientKind,
) -> Result<ScriptedClient<'w, 'a>> {
    set_mode(defender, "off")?;
    let client = wire.greeted(server.address(), kind)?;
    set_mode(defender, "always")?;
    wait_active(defender, 80)?;
    Ok(client)
}

#[test]
fn a_syn_meets_its_own_handshake_begun_in_calm() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &["--mode", "off"])?;
    let wire = Wire::new(&bed)?;
    for kind in KINDS {
        let mut client = begun_before_challenges(&defender, &wire, &server, kind)?;
        let first = client.syn_ack().seq;
        let (_, counts) = counted(&defender, || {
            client.send(&[client.syn()])?;
            // The kernel repeats its SYN-ACK by itself as well.
            let seen = client.expect("the SYN-ACK again")?;
            ensure!(seen.is(SYN_ACK) && seen.seq == first, "another SYN-ACK: {seen:?}");
            client.finish_handshake()?;
            client.talk()
        })?;
        counts.assert(&[("pass.syn_known", 1), ("syn_challenged", 0), ("handoff_assigned", 0)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

/// A client that gave up, and whose port is used again: another SYN for what the kernel still waits for.
#[test]
fn another_syn_meets_a_handshake_begun_in_calm() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &["--mode", "off"])?;
    defender.ask(&["set", "out_of_state_budget", "0"])?;
    let wire = Wire::new(&bed)?;
    for kind in KINDS {
        let mut client = begun_before_challenges(&defender, &wire, &server, kind)?;
        let old_ack = client.ack();
        let (_, counts) = counted(&defender, || {
            client.isn = client.isn.wrapping_add(0x4000_0000);
            client.send(&[client.syn()])?;
            let seen = client.expect_besides_repeats("an ACK")?;
            ensure!(seen.is(flag::ACK), "the kernel answers with an ACK: {seen:?}");
            client.send(&[client.rst().seq(seen.ack)])?;
            wait_for_sockets(&bed.server, &[])?;
            client.send(&[client.syn()])?;
            client.until_syn_ack()?;
            // What was the right ACK before is no cookie.
            client.send(&[old_ack])?;
            client.expect_silence()?;
            client.finish_handshake()?;
            client.talk()?;
            client.send(&[client.rst()])?;
            wait_for_sockets(&bed.server, &[])
        })?;
        counts.assert(&[
            ("pass.syn_known", 1),
            ("syn_challenged", 1),
            ("ack_accepted", 1),
            ("ack_rejected", 1),
            ("handoff_established", 1),
        ]);
        counts.assert_no_drops_but(&["drop.ack_bad_cookie"]);
    }
    Ok(())
}

#[test]
fn a_stray_syn_does_not_disturb_a_connection() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for server in &servers {
            for kind in KINDS {
                let mut client = wire.connected(server.address(), kind)?;
                // The kernel answers few of these in half a second, and another of a connection not at once.
                client.send(&[client.syn().seq(client.isn.wrapping_add(77_777))])?;
                let seen = client.expect_besides_repeats("a challenge ACK")?;
                ensure!(seen.is(flag::ACK) && seen.ack == client.isn.wrapping_add(1), "{seen:?}");
                client.talk()?;
                client.talk()?;
                client.close()?;
            }
        }
        Ok(())
    })?;
    counts.assert(&[("pass.syn_known", 4), ("syn_challenged", 4), ("handoff_established", 4)]);
    counts.assert_no_drops_but(&[]);
    wait_for_sockets(&bed.server, &[])
}

/// A client that resets its connection and takes the same port again, as health checks do: the hand-off remembers the
/// connection before, which must not be mistaken for this one.
#[test]
fn a_port_is_used_again_at_once() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for kind in KINDS {
            let mut client = wire.greeted(server.address(), kind)?;
            let first = [client.ack(), client.rst()];
            client.isn = client.isn.wrapping_add(1_000_000);
            let [ack, rst] = first;
            client.send(&[ack, rst, client.syn()])?;
            client.until_syn_ack()?;
            client.finish_handshake()?;
            client.talk()?;
        }
        Ok(())
    })?;
    counts.assert(&[("syn_challenged", 4), ("handoff_assigned", 4), ("handoff_established", 4)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}
