//! Services that are worse off with challenges than without: they are left alone, told so, and tried again. Nobody outside
//! can bring that about.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client,
    controller::Controller,
    frame::{Checksum, TcpFrame},
    server::{self, Server},
    topology::{Options, Topology},
};

use crate::harness::{
    CLIENT_PATIENCE, Counts, connect, eventually,
    process::{self, Scratch},
    scripted_client::{ClientKind, ScriptedClient, Wire},
    services, start, wait_active,
};

/// How many clients come: enough to notice.
const CLIENTS: usize = 40;
/// Longer than it takes to notice.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

/// Drops what belongs to no connection whose SYN came by here, and is not among the rules of the host.
const ONLY_AFTER_A_SYN: &str = "
table netdev guard {
  set v4 { type ipv4_addr . inet_service; flags dynamic; size 65535; }
  set v6 { type ipv6_addr . inet_service; flags dynamic; size 65535; }
  chain c {
    type filter hook ingress device srv0 priority 0;
    tcp dport 80 tcp flags & (syn | ack) == syn update @v4 { ip saddr . tcp sport }
    tcp dport 80 tcp flags & (syn | ack) == syn update @v6 { ip6 saddr . tcp sport }
    tcp dport 80 ip saddr . tcp sport != @v4 drop
    tcp dport 80 ip6 saddr . tcp sport != @v6 drop
  }
}";

/// Real checksums: what the hardware is to fill in says nothing.
fn topology() -> Result<Topology> {
    Topology::with(&Options { checksum_offload: false, ..Options::default() })
}

#[test]
fn always_where_cookies_lead_nowhere() -> Result<()> {
    let bed = topology()?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let defender = start(&bed, &["--mode", "always"])?;
        protection_is_lost(&bed, &defender, address, || Ok(()))?;
    }
    Ok(())
}

#[test]
fn auto_where_cookies_lead_nowhere() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let defender = start(&bed, &["--mode", "auto"])?;
        protection_is_lost(&bed, &defender, address, || {
            for _ in 0..4 {
                let clients: Result<Vec<_>> =
                    (0..50).map(|_| wire.client(address, ClientKind::Linux)).collect();
                wire.send(&clients?.iter().map(ScriptedClient::syn).collect::<Vec<_>>())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Clients come whose cookies are accepted and whose segments something drops; from then on SYNs pass, until something else
/// listens. `attack` has SYNs challenged.
fn protection_is_lost(
    bed: &Topology,
    defender: &Controller<'_>,
    address: SocketAddr,
    attack: impl Fn() -> Result<()>,
) -> Result<()> {
    let scratch = Scratch::new()?;
    let rules = scratch.write("rules", ONLY_AFTER_A_SYN)?;
    let options = server::Options { backlog: 128, ..server::Options::default() };
    let server = Server::with(&bed.server, address, options)?;
    defender.wait_for_listener(80)?;
    process::run(&bed.server, "nft", &format!("-f {}", rules.display()))?;
    attack()?;
    wait_active(defender, 80)?;

    let before = Counts::of(defender)?;
    let visit =
        || client::connect_from(&bed.client, Some(bed.fresh_client(address)), address, CLIENT_PATIENCE);
    let visitors = (0..CLIENTS).map(|_| visit()).collect::<Result<Vec<_>>>()?;
    let reason = || -> Result<Option<String>> {
        let services = services(defender, 80)?;
        Ok(services[0]["unprotectable"].as_str().map(str::to_owned))
    };
    eventually("SYNs pass", || Ok(reason()?.is_some()))?;
    let reason = reason()?.context("no reason")?;
    ensure!(reason.contains("hardly any became a connection"), "{reason}");
    let counts = &Counts::of(defender)? - &before;
    ensure!(counts.get("ack_accepted") >= CLIENTS as u64, "{counts}");
    drop(visitors);

    connect(bed, bed.fresh_client(address), address).context("SYNs pass")?;
    let told = defender.ask(&["status"])?;
    ensure!(told.contains("unprotectable") && told.contains("Most likely a firewall"), "{told}");
    let told = defender.ask(&["doctor", "--port", "80"])?;
    ensure!(told.contains("protection 80"), "{told}");
    eventually("that it is lost is told", || Ok(events(defender)? == ["protection_lost"]))?;

    // What listens then gets its chance.
    process::run(&bed.server, "nft", "delete table netdev guard")?;
    drop(server);
    // The controller sees that nothing listens.
    eventually("the service ends", || Ok(services(defender, 80)?.is_empty()))?;
    let _server = Server::with(&bed.server, address, options)?;
    attack()?;
    wait_active(defender, 80)?;
    eventually("that it is regained is told", || {
        Ok(events(defender)? == ["protection_lost", "protection_regained"])
    })?;
    connect(bed, bed.fresh_client(address), address).context("challenged again")?;
    Ok(())
}

/// What happened to the protection of services.
fn events(defender: &Controller<'_>) -> Result<Vec<String>> {
    let mut events = Vec::new();
    for line in defender.ask(&["events", "--json"])?.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        if event["kind"] == "protection" {
            events.push(event["event"].as_str().context("no event")?.to_owned());
        }
    }
    Ok(events)
}

/// Loose source routes that have come to their end. The kernel takes none.
const SOURCE_ROUTE: [u8; 8] = [131, 7, 8, 10, 203, 0, 1, 1];

/// Who has an address of his own gets cookies, and can send what proves them and makes no connection.
#[test]
fn no_client_can_end_the_challenge() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let _server = Server::start(&bed.server, address)?;
        let defender = start(&bed, &["--mode", "always"])?;
        wait_active(&defender, 80)?;
        let before = Counts::of(&defender)?;
        for _ in 0..CLIENTS {
            let client = wire.greeted(address, ClientKind::Linux)?;
            client.send(&unsound(&client.ack()))?;
            if address.is_ipv4() {
                client.send(&[client.ack().ip_options(&SOURCE_ROUTE)])?;
            }
        }
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("handoff_established", 0)]);
        if address.is_ipv4() {
            ensure!(counts.get("ack_accepted") >= CLIENTS as u64, "{counts}");
        } else {
            counts.assert(&[("ack_accepted", 0)]);
        }
        thread::sleep(LONG_ENOUGH);
        let service = &services(&defender, 80)?[0];
        ensure!(service["active"] == true && service["unprotectable"].is_null(), "{service}");
        // Many copies of one proof are one client's.
        let client = wire.greeted(address, ClientKind::Windows)?;
        client.send(&vec![client.ack(); 64])?;
        thread::sleep(LONG_ENOUGH);
        ensure!(services(&defender, 80)?[0]["active"] == true);
    }
    Ok(())
}

/// What carries the cookie and is dropped by every TCP.
fn unsound(ack: &TcpFrame) -> Vec<TcpFrame> {
    let md5 = [&[19, 18][..], &[0; 16], &[1, 1]].concat();
    vec![
        ack.clone().checksum(Checksum::Wrong),
        ack.clone().payload(b"GET /").checksum(Checksum::Wrong),
        ack.clone().raw_options(&[&stamps(ack)[..], &md5].concat()),
    ]
}

/// The bytes of the timestamps of a frame of ours.
fn stamps(frame: &TcpFrame) -> Vec<u8> {
    let seen = defender_testbed::frame::ParsedFrame::parse(&frame.build()).expect("readable");
    let (stamp, echo) = seen.options.timestamps.expect("with timestamps");
    [0x0101_080a, stamp, echo].map(u32::to_be_bytes).concat()
}
