//! SYNs that leave nothing in the kernel's queue are no flood, however many they are.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use defender_testbed::{
    client,
    frame::{TcpFrame, flag},
    server::{self, Server},
    topology::Topology,
};

use crate::{
    auto::bed::{MitigationView, NEVER, PORT, events, half_open, serve, start_auto, topology},
    harness::{Counts, PATIENCE, eventually, process, scripted_client::Wire, start_always},
};

/// Small, so that a few connections that stayed half open would be a flood.
const BACKLOG: u32 = 16;

fn source(number: u16, like: SocketAddr) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    let port = 10_000 + number;
    if like.is_ipv4() {
        SocketAddr::new([198, 18, high, low].into(), port)
    } else {
        SocketAddr::new([0x2001, 0xdb8, 0xf, 0, 0, 0, 0, number].into(), port)
    }
}

/// The server's addresses, one of each family, on a bed of their own each.
fn on_both(test: impl Fn(&Topology, SocketAddr) -> Result<()>) -> Result<()> {
    let bed = topology()?;
    test(&bed, bed.server_v4(PORT))?;
    let bed = topology()?;
    test(&bed, bed.server_v6(PORT))
}

/// Sends frames for each of so many clients, a few clients at a time.
fn send(bed: &Topology, clients: u16, at_once: usize, frames: impl Fn(u16) -> Vec<TcpFrame>) -> Result<()> {
    let wire = Wire::new(bed)?;
    for chunk in (0..clients).collect::<Vec<_>>().chunks(at_once) {
        wire.send(&chunk.iter().flat_map(|number| frames(*number)).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Nothing was noticed, and nobody was told anything.
fn nothing_has_happened(defender: &defender_testbed::controller::Controller<'_>) -> Result<()> {
    let mitigation = MitigationView::of(defender, PORT)?.mitigation()?;
    ensure!(mitigation == NEVER, "{mitigation:?}");
    let told = events(defender)?;
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}

#[test]
fn health_checks_that_reset_are_no_flood() -> Result<()> {
    on_both(|bed, address| {
        let _server = serve(bed, address, BACKLOG)?;
        let defender = start_auto(bed, &[PORT])?;
        send(bed, 300, 4, |number| {
            let (from, isn) = (source(number, address), 1_000_000 + u32::from(number) * 7);
            let rst = TcpFrame::new(from, address).flags(flag::RST).seq(isn.wrapping_add(1));
            vec![TcpFrame::linux_syn(from, address, isn), rst]
        })?;
        nothing_has_happened(&defender)
    })
}

#[test]
fn syns_that_a_firewall_drops_are_no_flood() -> Result<()> {
    on_both(|bed, address| {
        let _server = serve(bed, address, BACKLOG)?;
        let rules = format!(
            "add table inet filter; add chain inet filter input {{ type filter hook input priority 0; }}; \
             add rule inet filter input tcp dport {PORT} tcp flags & (syn | ack) == syn drop"
        );
        process::run(&bed.server, "nft", &rules)?;
        let defender = start_auto(bed, &[PORT])?;
        send(bed, 600, 30, |number| vec![TcpFrame::linux_syn(source(number, address), address, 7)])?;
        ensure!(half_open(bed)? == 0, "the firewall drops nothing");
        ensure!(MitigationView::of(&defender, PORT)?.mitigation()? == NEVER);
        Ok(())
    })
}

/// TCP-MD5 (RFC 2385): the kernel looks at the signature before it makes room for the connection.
fn forged_signature(number: u16, to: SocketAddr) -> TcpFrame {
    let signature = [19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    TcpFrame::new(source(number, to), to).flags(flag::SYN).seq(7).raw_options(&signature)
}

#[test]
fn forged_signatures_are_no_flood() -> Result<()> {
    on_both(|bed, address| {
        let _server = serve(bed, address, 3)?;
        let defender = start_auto(bed, &[PORT])?;
        send(bed, 300, 15, |number| vec![forged_signature(number, address)])?;
        nothing_has_happened(&defender)
    })
}

#[test]
fn forged_signatures_take_no_room_of_a_peer_s() -> Result<()> {
    on_both(|bed, address| {
        let _server = serve(bed, address, 3)?;
        let defender = start_always(bed, &[PORT])?;
        send(bed, 300, 15, |number| vec![forged_signature(number, address)])?;
        let mut counts = Counts::of(&defender)?;
        eventually("all have passed", || {
            counts = Counts::of(&defender)?;
            Ok(counts.get("syn_received") >= 300)
        })?;
        counts.assert(&[("pass.syn_signed", 300), ("drop.syn_no_room", 0)]);
        Ok(())
    })
}

/// The kernel drops their SYNs while the accept queue is full.
#[test]
fn clients_of_a_hung_application_are_no_flood() -> Result<()> {
    on_both(|bed, address| {
        let options = server::Options { backlog: BACKLOG, accept: false, ..server::Options::default() };
        let _server = Server::with(&bed.server, address, options)?;
        let defender = start_auto(bed, &[PORT])?;
        let wait = |_| client::connect_from(&bed.client, Some(bed.fresh_client(address)), address, PATIENCE);
        // One more than the backlog gets in (`sk_acceptq_is_full`, include/net/sock.h).
        let _waiting = (0..=BACKLOG).map(wait).collect::<Result<Vec<_>>>()?;
        send(bed, 300, 10, |number| vec![TcpFrame::linux_syn(source(number, address), address, 7)])?;
        nothing_has_happened(&defender)
    })
}
