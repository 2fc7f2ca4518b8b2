//! Interfaces and addresses that cannot be defended: refused, or left alone and told.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::fresh_pin_root,
    server::Server,
    topology::{CLIENT_V4, CLIENT_V6, SERVER_INTERFACE, SERVER_V4, SERVER_V6, Topology},
};

use crate::harness::{
    Counts, connect, eventually, process, run, services, start_always, status, wait_active,
};

const BRIDGE: &str = "br0";

#[test]
fn interfaces_that_cannot_be_defended_are_refused_and_nothing_is_left() -> Result<()> {
    let bed = Topology::new()?;
    bed.server.ip_batch(&format!(
        "link add {BRIDGE} type bridge\nlink add port0 type veth peer name port1\nlink set port0 master {BRIDGE}\n\
         tuntap add tun0 mode tun\n"
    ))?;
    for (name, reason) in [
        ("lo", "no Ethernet headers"),
        ("tun0", "no Ethernet headers"),
        ("port0", "port of bridge br0, which its connections belong to; defend br0 as a whole: --iface br0"),
    ] {
        let pins = fresh_pin_root();
        for command in ["run", "attach"] {
            let output = run(&bed, &pins, &[command, "--no-allow-ssh", "--iface", name])?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(1), "{name}: {told}");
            ensure!(told.contains(name) && told.contains(reason) && told.lines().count() == 1, "{told}");
            ensure!(!pins.exists(), "{} is left", pins.display());
        }
        let output = run(&bed, &pins, &["doctor", "--iface", name])?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1) && told.contains(&reason[..16]), "{name}: {told}");
    }
    Ok(())
}

/// Somebody makes the interface a port of a bridge, which has the addresses then, and later takes it out again.
#[test]
fn an_interface_that_becomes_a_port_is_left_alone_until_it_is_none() -> Result<()> {
    let bed = Topology::new()?;
    let _servers = [bed.server_v4(80), bed.server_v6(80)]
        .map(|address| Server::start(&bed.server, address))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let defender = start_always(&bed, &[80])?;
    let visit = |what: &str| -> Result<()> {
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            connect(&bed, bed.fresh_client(address), address).context(what.to_owned())?;
        }
        Ok(())
    };
    let warned = || -> Result<bool> {
        let status = status(&defender)?;
        let warnings = status["warnings"].as_array().context("no warnings")?;
        Ok(warnings.iter().filter_map(|it| it.as_str()).any(|it| it.contains("port of bridge br0")))
    };
    visit("before")?;

    bed.server.ip_batch(&format!(
        "link add {BRIDGE} address 02:00:00:00:00:02 type bridge\nlink set {BRIDGE} up\n"
    ))?;
    move_addresses(
        &bed,
        SERVER_INTERFACE,
        BRIDGE,
        &format!("link set {SERVER_INTERFACE} master {BRIDGE}\n"),
    )?;
    eventually("the port is told", warned)?;
    let before = Counts::of(&defender)?;
    visit("by the bridge")?;
    let counts = &Counts::of(&defender)? - &before;
    counts.assert(&[("syn_challenged", 0), ("ack_accepted", 0)]);
    counts.assert_no_drops_but(&[]);

    move_addresses(&bed, BRIDGE, SERVER_INTERFACE, &format!("link set {SERVER_INTERFACE} nomaster\n"))?;
    eventually("it is none any more", || Ok(!warned()?))?;
    let before = Counts::of(&defender)?;
    visit("after")?;
    (&Counts::of(&defender)? - &before).assert(&[("syn_challenged", 2), ("handoff_established", 2)]);
    Ok(())
}

/// Moves the server's addresses, and the ways to its clients, from one interface to another.
fn move_addresses(bed: &Topology, from: &str, to: &str, between: &str) -> Result<()> {
    bed.server.ip_batch(&format!(
        "address flush dev {from}\n{between}\
         link set {to} addrgenmode none\n\
         address add {SERVER_V4}/30 dev {to}\naddress add {SERVER_V6}/64 dev {to} nodad\n\
         neighbour replace {CLIENT_V4} lladdr 02:00:00:00:00:01 dev {to} nud permanent\n\
         neighbour replace {CLIENT_V6} lladdr 02:00:00:00:00:01 dev {to} nud permanent\n\
         route replace 10.208.0.0/12 via {CLIENT_V4}\nroute replace 2001:db8:c::/48 via {CLIENT_V6}\n"
    ))
}

/// Where a balancer must be in front, SYNs to its address pass; where one may be, that is told.
#[test]
fn addresses_behind_a_balancer_are_told_and_left_alone_where_it_is_sure() -> Result<()> {
    let bed = Topology::new()?;
    let vips: [IpAddr; 2] = ["10.203.9.9".parse()?, "2001:db8:0:9::9".parse()?];
    bed.server
        .ip_batch("address add 10.203.9.9/32 dev lo\naddress add 2001:db8:0:9::9/128 dev lo nodad\n")?;
    bed.client.ip_batch(&format!(
        "route add 10.203.9.9/32 via {SERVER_V4}\nroute add 2001:db8:0:9::9/128 via {SERVER_V6}\n"
    ))?;
    let _servers = ["0.0.0.0:80", "[::]:81"]
        .map(|address| Server::start(&bed.server, address.parse().expect("an address")))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let [v4, v6] = [SocketAddr::new(vips[0], 80), SocketAddr::new(vips[1], 81)];
    let defender = start_always(&bed, &[80, 81])?;
    let told = |what: &str| -> Result<bool> { Ok(status(&defender)?["warnings"].to_string().contains(what)) };
    let challenged = |address: SocketAddr| -> Result<u64> {
        let before = Counts::of(&defender)?;
        connect(&bed, bed.fresh_client(address), address)?;
        Ok((&Counts::of(&defender)? - &before).get("syn_challenged"))
    };
    ensure!(told("10.203.9.9 is on lo, 2001:db8:0:9::9 is on lo: if a balancer")?, "{}", status(&defender)?);
    ensure!(
        [v4, v6, bed.server_v4(80)].map(challenged).into_iter().collect::<Result<Vec<_>>>()? == [1, 1, 1]
    );

    process::run(&bed.server, "sysctl", "-qw net.ipv4.conf.all.arp_ignore=1")?;
    eventually("a balancer must be there", || told("10.203.9.9 is on lo with arp_ignore"))?;
    ensure!(
        [v4, v6, bed.server_v4(80)].map(challenged).into_iter().collect::<Result<Vec<_>>>()? == [0, 1, 1]
    );
    let doctor = defender.ask(&["doctor", "--iface", SERVER_INTERFACE])?;
    ensure!(doctor.contains("direct return") && doctor.contains("SYNs to it pass"), "{doctor}");

    process::run(&bed.server, "sysctl", "-qw net.ipv4.conf.all.arp_ignore=0")?;
    eventually("perhaps not", || told("10.203.9.9 is on lo, "))?;
    wait_active(&defender, 80)?;
    ensure!(challenged(v4)? == 1 && !services(&defender, 80)?.is_empty());
    Ok(())
}
