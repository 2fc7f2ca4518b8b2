//! Sysctls are changed while clients connect.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{controller::Controller, server::Server, topology::Topology};

use crate::{
    harness::{
        Counts, connect, eventually,
        scripted_client::{KINDS, ScriptedClient, Wire},
        services, start, talk, wait_active,
    },
    operator::bed::{PORT, attack, serve, topology},
};

/// More than the refusals that give a service up.
const CLIENTS: usize = 12;

/// What is switched off, and whether clients go on whose handshake is under way.
const SWITCHES: [(&str, bool); 3] =
    [("tcp_timestamps", true), ("tcp_sack", true), ("tcp_window_scaling", false)];

#[test]
fn switches_are_flipped_in_always() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let server = serve(&bed, address)?;
        let defender = start(&bed, &["--mode", "always"])?;
        flip_all(&bed, &wire, &defender, &server)?;
    }
    Ok(())
}

#[test]
fn switches_are_flipped_in_an_attack() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let server = serve(&bed, address)?;
        let defender = start(&bed, &["--mode", "auto"])?;
        defender.wait_for_listener(PORT)?;
        attack(&wire, address)?;
        flip_all(&bed, &wire, &defender, &server)?;
    }
    Ok(())
}

fn flip_all(bed: &Topology, wire: &Wire<'_>, defender: &Controller<'_>, server: &Server) -> Result<()> {
    wait_active(defender, PORT)?;
    for (name, goes_on) in SWITCHES {
        flip(bed, wire, defender, server, (name, goes_on))
            .with_context(|| format!("{name}, {}", server.address()))?;
    }
    let told = defender.ask(&["events"])?;
    ensure!(!told.contains("unprotectable"), "{told}");
    Ok(())
}

/// Off, with handshakes under way, and on again.
fn flip(
    bed: &Topology,
    wire: &Wire<'_>,
    defender: &Controller<'_>,
    server: &Server,
    (name, goes_on): (&str, bool),
) -> Result<()> {
    let address = server.address();
    let name = format!("net.ipv4.{name}");
    let before = Counts::of(defender)?;
    let mut spanning = Vec::new();
    for number in 0..CLIENTS {
        spanning.push(wire.greeted(address, KINDS[number % 2])?);
    }
    bed.server.set_sysctl(&name, 0)?;
    for client in &mut spanning {
        let promised = match name.as_str() {
            "net.ipv4.tcp_timestamps" => client.syn_ack().options.timestamps.is_some(),
            _ => true,
        };
        client.send(&[client.ack()])?;
        if goes_on || !promised {
            goes_on_well(client)?;
        } else {
            client.until("the reset", |got| got.reset)?;
        }
    }
    is_named(defender, &name)?;
    is_challenged(bed, defender, address).context("off")?;
    // What cookies promise since then holds.
    let counts = &Counts::of(defender)? - &before;
    let failed = if goes_on { 0 } else { CLIENTS as u64 };
    counts.assert(&[("handoff_failed", failed), ("handoff_refused_invalid", failed)]);
    // Time enough for the service to be given up.
    thread::sleep(Duration::from_millis(1200));
    is_challenged(bed, defender, address).context("off for a while")?;

    server.take_accepted();
    bed.server.set_sysctl(&name, 1)?;
    eventually("clients have all options again", || {
        let from = bed.fresh_client(address);
        connect(bed, from, address)?;
        let has_all = server.take_accepted().iter().any(|accepted| accepted.info.has_all_options());
        Ok(has_all)
    })?;
    is_challenged(bed, defender, address).context("on again")
}

/// Data goes there and comes back, more than fits a segment.
fn goes_on_well(client: &mut ScriptedClient<'_, '_>) -> Result<()> {
    client.until("the greeting", |got| got.data == b"+")?;
    client.burst(&[], 5)?;
    client.close()
}

/// Kernels connect, and the service is challenged.
fn is_challenged(bed: &Topology, defender: &Controller<'_>, address: SocketAddr) -> Result<()> {
    let service = &services(defender, PORT)?[0];
    ensure!(service["unprotectable"].is_null(), "{service}");
    let before = Counts::of(defender)?;
    for _ in 0..5 {
        talk(&mut connect(bed, bed.fresh_client(address), address)?)?;
    }
    let counts = &Counts::of(defender)? - &before;
    counts.assert(&[("syn_challenged", 5), ("handoff_assigned", 5), ("handoff_failed", 0)]);
    Ok(())
}

/// People are told what was changed, and when.
fn is_named(defender: &Controller<'_>, name: &str) -> Result<()> {
    eventually("the change is told", || {
        let told = defender.ask(&["status"])?;
        Ok(told.contains(&format!("{name} was changed to 0 at 20")))
    })
}

/// The kernel resets whatever is handed to it while it makes no cookies of its own: nothing is challenged then.
#[test]
fn without_the_kernels_cookies_clients_come_in_at_once() -> Result<()> {
    let bed = topology()?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let _server = serve(&bed, address)?;
        let defender = start(&bed, &["--mode", "always"])?;
        wait_active(&defender, PORT)?;
        for _ in 0..3 {
            bed.server.set_sysctl("net.ipv4.tcp_syncookies", 0)?;
            eventually("nothing is challenged", || Ok(services(&defender, PORT)?[0]["active"] == false))?;
            for _ in 0..5 {
                talk(&mut connect(&bed, bed.fresh_client(address), address)?)?;
            }
            bed.server.set_sysctl("net.ipv4.tcp_syncookies", 1)?;
            wait_active(&defender, PORT)?;
            is_challenged(&bed, &defender, address)?;
        }
    }
    Ok(())
}
