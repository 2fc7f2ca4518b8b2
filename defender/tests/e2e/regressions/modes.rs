//! The mode changes between a SYN and its ACK, keys change, the controller dies.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use defender_common::abi::KeySlot;
use defender_testbed::{
    controller::Controller,
    frame::{TcpFrame, flag},
    server::Server,
    topology::Topology,
};

use crate::harness::{
    Counts,
    kernel::{Listener, counted, servers, set_mode, sockets, wait_for_sockets},
    scripted_client::{ClientKind, KINDS, ScriptedClient, Wire},
    services, start, start_always,
    traffic::{take_over, take_over_with},
    wait_active,
};

/// From passing to challenging: `reuse::a_handshake_begun_before_challenges_is_completed`.
#[test]
fn a_cookie_is_accepted_after_the_challenges_ended() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    for mode in ["off", "monitor", "auto"] {
        let (_, counts) = counted(&defender, || {
            set_mode(&defender, "always")?;
            wait_active(&defender, 80)?;
            let mut clients = Vec::new();
            for server in &servers {
                for kind in KINDS {
                    clients.push(wire.greeted(server.address(), kind)?);
                    clients.push(wire.greeted(server.address(), kind)?);
                }
            }
            set_mode(&defender, mode)?;
            for pair in clients.chunks_mut(2) {
                // One with its ACK, one with data at once.
                pair[0].finish_handshake()?;
                pair[0].talk()?;
                pair[1].burst(&[], 1)?;
            }
            // And the kernel answers again.
            wire.connected(servers[0].address(), ClientKind::Linux)?.talk()
        })?;
        counts.assert(&[("syn_challenged", 8), ("ack_accepted", 8), ("handoff_established", 8)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

/// The kernel has answered with cookies of its own, as it does when its queue is full: their ACKs are none of ours.
#[test]
fn the_kernels_own_cookies_are_accepted_after_the_challenges_began() -> Result<()> {
    for mode in ["monitor", "auto", "off"] {
        let bed = Topology::new()?;
        let servers = servers(&bed)?;
        let defender = start(&bed, &["--mode", mode])?;
        let wire = Wire::new(&bed)?;
        let mut clients = greeted_with_kernel_cookies(&bed, &wire, &servers)?;
        let (_, counts) = counted(&defender, || {
            set_mode(&defender, "always")?;
            wait_active(&defender, 80)?;
            finish(&mut clients)
        })?;
        assert!(counts.get("pass.kernel_cookie") >= clients.len() as u64, "{mode}: {counts}");
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

#[test]
fn the_kernels_own_cookies_of_before_the_start_are_accepted() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let wire = Wire::new(&bed)?;
    let mut clients = greeted_with_kernel_cookies(&bed, &wire, &servers)?;
    let defender = start_always(&bed, &[80])?;
    finish(&mut clients)?;
    Counts::of(&defender)?.assert_no_drops_but(&[]);
    Ok(())
}

/// Clients that the kernel has answered with a cookie.
fn greeted_with_kernel_cookies<'w, 'b>(
    bed: &'b Topology,
    wire: &'w Wire<'b>,
    servers: &[Server],
) -> Result<Vec<ScriptedClient<'w, 'b>>> {
    // 2: a cookie for every SYN, whether or not the queue is full.
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 2)?;
    let mut clients = Vec::new();
    for server in servers {
        for kind in KINDS {
            clients.push(wire.greeted(server.address(), kind)?);
        }
    }
    ensure!(sockets(&bed.server)?.is_empty(), "these are no cookies");
    Ok(clients)
}

fn finish(clients: &mut [ScriptedClient<'_, '_>]) -> Result<()> {
    clients.iter_mut().try_for_each(|client| {
        client.finish_handshake()?;
        client.talk()
    })
}

#[test]
fn without_challenges_the_kernel_answers_a_wrong_ack() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    set_mode(&defender, "monitor")?;
    let client = wire.greeted(servers[0].address(), ClientKind::Linux)?;
    let stranger = wire.client(servers[0].address(), ClientKind::Linux)?;
    let (_, counts) = counted(&defender, || {
        let ack = client.ack();
        let frame = TcpFrame::new(stranger.from, stranger.to).seq(1).ack(1);
        stranger.send(&[frame])?;
        ensure!(stranger.expect("a RST")?.is(flag::RST));
        client.send(&[ack])
    })?;
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn a_cookie_is_accepted_after_the_controller_died_and_another_took_over() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let first = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let mut orphans = [
        wire.greeted(servers[0].address(), ClientKind::Linux)?,
        wire.greeted(servers[1].address(), ClientKind::Windows)?,
    ];
    let mut adopted = [
        wire.greeted(servers[0].address(), ClientKind::Windows)?,
        wire.greeted(servers[1].address(), ClientKind::Linux)?,
    ];
    first.kill()?;
    for client in &mut orphans {
        client.finish_handshake()?;
        client.talk()?;
    }
    // Nobody in control: new ones are challenged and handed over all the same.
    let mut alone = wire.connected(servers[0].address(), ClientKind::Linux)?;
    let second = take_over(&bed, &first)?;
    for client in &mut adopted {
        client.finish_handshake()?;
        client.talk()?;
    }
    alone.talk()?;
    let counts = Counts::of(&second)?;
    counts.assert(&[("syn_challenged", 5), ("ack_accepted", 5), ("handoff_established", 5)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// The next controller is told not to challenge: cookies that are on their way are accepted.
#[test]
fn a_cookie_is_accepted_after_a_takeover_into_calm() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let first = start_always(&bed, &[80])?;
    let wire = Wire::new(&bed)?;
    let mut client = wire.greeted(servers[0].address(), ClientKind::Linux)?;
    first.kill()?;
    let second = take_over_with(&bed, &first, &["--mode", "off"])?;
    client.finish_handshake()?;
    client.talk()?;
    let counts = Counts::of(&second)?;
    counts.assert(&[("syn_challenged", 1), ("ack_accepted", 1), ("handoff_established", 1)]);
    Ok(())
}

/// The controller looks at the listeners at once when one comes or goes; by then it must know what was set.
#[test]
fn what_was_set_is_not_undone_when_a_listener_comes() -> Result<()> {
    let bed = Topology::new()?;
    let _servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    for (round, mode) in ["monitor", "always"].into_iter().cycle().take(8).enumerate() {
        set_mode(&defender, mode)?;
        let _other = Listener::new(&bed.server, bed.server_v4(8000 + round as u16))?;
        thread::sleep(Duration::from_millis(100));
        for service in services(&defender, 80)? {
            assert_eq!(service["mode"], mode, "round {round}");
        }
    }
    Ok(())
}

#[test]
fn a_cookie_lives_through_one_new_key_and_not_through_two() -> Result<()> {
    let bed = Topology::new()?;
    let servers = servers(&bed)?;
    let defender = start_always(&bed, &[80])?;
    defender.ask(&["set", "out_of_state_budget", "0"])?;
    let wire = Wire::new(&bed)?;
    let (_, counts) = counted(&defender, || {
        for server in &servers {
            for kind in KINDS {
                let mut young = wire.greeted(server.address(), kind)?;
                let old = wire.greeted(server.address(), kind)?;
                rotate_keys(&defender)?;
                young.finish_handshake()?;
                rotate_keys(&defender)?;
                old.send(&[old.ack()])?;
                old.send(&[old.data(0, b"too late")])?;
                old.expect_silence()?;
                young.talk()?;
            }
        }
        wait_for_sockets(&bed.server, &[("ESTAB", 4)])
    })?;
    counts.assert(&[
        ("syn_challenged", 8),
        ("ack_accepted", 4),
        ("ack_rejected", 8),
        ("handoff_established", 4),
    ]);
    counts.assert_no_drops_but(&["drop.ack_bad_cookie"]);
    Ok(())
}

/// As the controller does it every half minute.
fn rotate_keys(defender: &Controller<'_>) -> Result<()> {
    let mut maps = Maps::open(&PinRoot::new(defender.pin_root())?)?;
    let mut config = maps.config.get(0)?;
    let mut keys = maps.keys.get(0)?;
    let present = keys[config.key_current as usize];
    let next = 1 - config.key_current;
    let [first, second, ..] = present.begun;
    let key = [first, second].map(|half| half.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
    keys[next as usize] = KeySlot::new(key, present.epoch.wrapping_add(1));
    maps.keys.set(0, keys)?;
    config.key_current = next;
    maps.config.set(0, config)
}
