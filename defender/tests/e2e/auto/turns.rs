//! The turns: what is under way when a service goes up or comes down is neither lost nor reset.

use anyhow::{Result, bail, ensure};
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::{
    controller::Controller, flood::Kind, simulated_clients::SimulatedClients, topology::Topology,
};

use crate::{
    auto::bed::{
        MitigationView, NEVER, PORT, Watch, comes_down, events, flood, serve, set, short_memory, start_auto,
        summary, topology,
    },
    harness::{
        Counts, clients_connect, eventually,
        kernel::sockets,
        process::Scratch,
        scripted_client::{KINDS, Wire},
        start,
    },
};

/// Handshakes begin, a flood follows, and they are completed. `begun` checks them before the flood.
fn up_between_syn_and_ack(bed: &Topology, begun: impl FnOnce() -> Result<()>) -> Result<Counts> {
    let addresses = [bed.server_v4(PORT), bed.server_v6(PORT)];
    let _servers = [serve(bed, addresses[0], 512)?, serve(bed, addresses[1], 512)?];
    let defender = start_auto(bed, &[PORT])?;
    let wire = Wire::new(bed)?;
    let mut clients = Vec::new();
    for address in addresses {
        for kind in KINDS {
            clients.push(wire.greeted(address, kind)?);
            clients.push(wire.greeted(address, kind)?);
        }
    }
    begun()?;
    // With 2 the kernel's queue would stay empty, and the attack unseen.
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 1)?;
    let ladders = MitigationView::all(&defender, PORT)?;
    for (mitigation, address) in ladders.iter().zip(addresses) {
        assert_eq!(mitigation.mitigation()?, NEVER);
        let handle = flood(Kind::LinuxSyn, address, 20_000, 10).start(bed)?;
        mitigation.wait_for(Level::Challenge)?;
        handle.stop()?;
    }
    let before = Counts::of(&defender)?;
    for pair in clients.chunks_mut(2) {
        // One with its ACK, one with data at once.
        pair[0].finish_handshake()?;
        pair[0].talk()?;
        pair[1].burst(&[], 1)?;
        ensure!(pair.iter().all(|client| !client.got.reset), "{} was reset", pair[0].from);
    }
    Ok(&Counts::of(&defender)? - &before)
}

#[test]
fn a_handshake_begun_before_challenges_is_completed_under_attack() -> Result<()> {
    let bed = topology()?;
    let counts = up_between_syn_and_ack(&bed, || Ok(()))?;
    counts.assert(&[("ack_accepted", 0), ("handoff_assigned", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn the_kernels_own_cookies_from_calm_are_accepted_under_attack() -> Result<()> {
    let bed = topology()?;
    // 2: a cookie for every SYN.
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", 2)?;
    let counts = up_between_syn_and_ack(&bed, || {
        ensure!(!sockets(&bed.server)?.contains_key("SYN-RECV"), "these are no cookies");
        Ok(())
    })?;
    assert!(counts.get("pass.kernel_cookie") >= 8, "{counts}");
    counts.assert_no_drops_but(&[]);
    Ok(())
}

/// There was one attack, and it is over.
fn told_once(defender: &Controller<'_>) -> Result<()> {
    eventually("the end is told", || Ok(events(defender)?.len() >= 2))?;
    let told = events(defender)?;
    let expected = ["began challenge queue syn_flood", "ended pass quiet syn_flood"];
    assert_eq!(summary(&told), expected, "{told:?}");
    Ok(())
}

#[test]
fn it_comes_down_and_accepts_the_cookies_from_before() -> Result<()> {
    let (bed, scratch) = (short_memory()?, Scratch::new()?);
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let _server = serve(&bed, address, 512)?;
        // From the file: where something is set, cookies are accepted for a while because of that.
        let file = scratch.write("config.toml", "mode = \"auto\"\nmin_active = 2\n")?;
        let defender = start(&bed, &["--config", &file.display().to_string()])?;
        defender.wait_for_listener(PORT)?;
        let watch = Watch::start(MitigationView::of(&defender, PORT)?);
        let mitigation = MitigationView::of(&defender, PORT)?;
        let wire = Wire::new(&bed)?;
        let handle = flood(Kind::LinuxSyn, address, 20_000, 2).start(&bed)?;
        mitigation.wait_for(Level::Challenge)?;
        let mut late = Vec::new();
        for kind in KINDS {
            for _ in 0..2 {
                let mut client = wire.client(address, kind)?;
                client.insist_on_greeting()?;
                late.push(client);
            }
        }
        handle.wait()?;
        comes_down(&bed, &mitigation, address)?;
        let before = Counts::of(&defender)?;
        for pair in late.chunks_mut(2) {
            pair[0].finish_handshake()?;
            pair[0].talk()?;
            pair[1].burst(&[], 1)?;
        }
        let counts = &Counts::of(&defender)? - &before;
        counts.assert_handed_over(4);
        counts.assert_no_drops_but(&[]);
        let clients = clients_connect(&bed, address)?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("pass.syn_not_mitigating", clients.into()), ("syn_challenged", 0)]);
        let [(Level::Challenge, up), (Level::Pass, Trigger::Quiet)] = watch.end()?[..] else {
            bail!("not up and down once")
        };
        ensure!(up == Trigger::Queue, "{up:?}");
        told_once(&defender)?;
    }
    Ok(())
}

/// A second of flood, two of rest, as booters do it against defences that forget.
#[test]
fn a_flood_in_pulses_is_one_attack() -> Result<()> {
    let bed = topology()?;
    // Half-open connections are gone after eight seconds: so much longer than the rest that a slow machine does not make it
    // the end.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 2)?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address, 512)?;
    let defender = start_auto(&bed, &[PORT])?;
    set(&defender, &[("80.min_active", "3")])?;
    let watch = Watch::start(MitigationView::of(&defender, PORT)?);
    let mitigation = MitigationView::of(&defender, PORT)?;
    for _ in 0..5 {
        flood(Kind::LinuxSyn, address, 5000, 1).run_to_end(&bed)?;
        let report = SimulatedClients::new(&bed, address).of(&bed, 20, 10).run(&bed)?;
        ensure!((report.completed, report.reset) == (20, 0), "{report:?}");
    }
    comes_down(&bed, &mitigation, address)?;
    told_once(&defender)?;
    assert_eq!(watch.end()?, [(Level::Challenge, Trigger::Queue), (Level::Pass, Trigger::Quiet)]);
    Counts::of(&defender)?.assert_no_drops_but(&[]);
    Ok(())
}
