//! The same where XDP comes after the driver, and while a flood goes on.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use defender_testbed::{
    flood::{Flood, Kind, Range},
    frame::flag,
    programs::Program,
    server::Server,
    topology::{Device, Options, Topology},
};

use crate::{
    conntrack::rules::Firewall,
    harness::{
        eventually,
        kernel::{Listener, counted},
        scripted_client::{KINDS, Wire},
        services, start, start_always,
    },
};

/// In generic mode what is sent round meets XDP twice, and is counted once.
#[test]
fn generic_mode_is_no_other() -> Result<()> {
    for device in [Device::FewQueues, Device::Macvlan, Device::Bridge] {
        let bed = Topology::with(&Options { device, ..Options::default() })?;
        let firewall = Firewall::new(&bed)?;
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            let listener = Listener::new(&bed.server, address)?;
            let defender = start_always(&bed, &[80])?;
            let wire = Wire::new(&bed)?;
            for kind in KINDS {
                let before = firewall.counted("new")?;
                let (client, counts) = counted(&defender, || {
                    let mut client = wire.greeted(address, kind)?;
                    client.send(&[client.ack(), client.data(0, b"hello"), client.fin(5)])?;
                    client.until("all of it to be acknowledged", |got| got.acknowledged == 6)?;
                    Ok(client)
                })?;
                counts.assert(&[("syn_challenged", 1), ("handoff_assigned", 1), ("handoff_established", 1)]);
                counts.assert_no_drops_but(&[]);
                // The kernel may have merged the last two. The client's end answers IPv6 that it does not know with ICMP.
                if address.is_ipv4() {
                    let received = counts.get("rx_packets");
                    assert!((3..=4).contains(&received), "{device:?}: {received} packets counted\n{counts}");
                }
                assert_eq!(firewall.counted("new")? - before, 1, "{device:?}");
                drop(listener.accept()?);
                drop(client);
            }
        }
        assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0), "{device:?}");
    }
    Ok(())
}

#[test]
fn bursts_arrive_in_a_flood() -> Result<()> {
    let bed = Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })?;
    let firewall = Firewall::new(&bed)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let _server = Server::start(&bed.server, address)?;
        let defender = start(&bed, &["--mode", "auto"])?;
        defender.wait_for_listener(80)?;
        let wire = Wire::new(&bed)?;
        let flood = flood(address).start(&bed)?;
        eventually("the flood is challenged", || Ok(services(&defender, 80)?[0]["active"] == true))?;
        for kind in KINDS {
            let mut client = wire.client(address, kind)?;
            client.insist_on_greeting()?;
            client.send(&[
                client.ack(),
                client.data(0, &[1; 1000]),
                client.data(1000, &[2; 1000]).flags(flag::ACK | flag::PSH),
                client.fin(2000),
            ])?;
            client.until("all of it to be acknowledged", |got| got.acknowledged == 2001 && got.end)?;
        }
        flood.stop()?;
    }
    assert_eq!((firewall.clashes()?, firewall.counted("invalid")?), (0, 0));
    Ok(())
}

/// Twenty seconds at most, from addresses that no client has.
fn flood(target: SocketAddr) -> Flood {
    let flood = Flood::new(Kind::LinuxSyn, target);
    let source = if target.is_ipv4() { Range::V4([198, 18, 0, 0].into(), 16) } else { flood.source };
    Flood { source, rate: Some(5_000), max_time: Duration::from_secs(20), max_packets: 100_000, ..flood }
}
