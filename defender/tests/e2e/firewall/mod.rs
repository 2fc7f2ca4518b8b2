//! Firewalls in front of defended services. Whatever their rules, clients get in as without a defender; where that requires
//! letting SYNs pass, it is reported.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client::{self, Load, LoadReport},
    command,
    controller::Controller,
    flood::{Flood, Kind, Range},
    programs::Program,
    server::{self, Server},
    topology::{Options, SERVER_INTERFACE, Topology},
};
use serde_json::Value;

use crate::harness::{Counts, eventually, run, services, start, start_always, status, wait_active};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients of each IP version.
const CLIENTS: u64 = 10;

/// How a service is treated.
#[derive(Clone, Copy, Debug)]
enum Made {
    /// It is challenged, and there is nothing to tell.
    Challenged,
    /// It is challenged, and `doctor` has a warning with these words.
    Told(&'static str),
    /// Its SYNs pass, because of this.
    Passed(&'static str),
}

/// Rules for new connections to one port; what they do not accept is dropped.
struct Row {
    rules: &'static str,
    made: Made,
}

const fn row(rules: &'static str, made: Made) -> Row {
    Row { rules, made }
}

const SYN_REQUIRED: Made = Made::Passed("do not begin with a SYN");
const ONLY_SYNS_ACCEPTED: Made = Made::Passed("by their SYN alone");

const ROWS: [Row; 14] = [
    row("tcp flags & (fin|syn|rst|ack) != syn drop; accept", SYN_REQUIRED),
    row("ct state new tcp flags != syn counter reject with tcp reset; accept", SYN_REQUIRED),
    row("tcp flags & (fin|syn|rst|ack) == syn accept", ONLY_SYNS_ACCEPTED),
    row("tcp flags syn goto letin", ONLY_SYNS_ACCEPTED),
    row("jump want_syn; accept", SYN_REQUIRED),
    row("ct state new tcp option maxseg missing drop; accept", SYN_REQUIRED),
    row("accept", Made::Challenged),
    row("ct state new accept", Made::Challenged),
    row("ct state invalid drop; tcp flags & (fin|syn) == fin|syn drop; accept", Made::Challenged),
    row("ip saddr 192.0.2.0/24 tcp flags != syn accept; accept", Made::Challenged),
    row("accept; tcp flags != syn drop", Made::Challenged),
    row("ct state new limit rate over 1000/second burst 1000 packets drop; accept", Made::Challenged),
    row(
        "tcp flags syn limit rate over 1000/second burst 1000 packets drop; accept",
        Made::Told("limits or picks SYNs"),
    ),
    row("ct state new ct count over 1000 drop; accept", Made::Challenged),
];

/// The port of a row.
fn port_of(row: usize) -> u16 {
    8000 + row as u16
}

/// The rows as one table.
fn table(rows: &[Row]) -> String {
    let chains =
        rows.iter().enumerate().map(|(row, Row { rules, .. })| format!("chain row{row} {{ {rules}; }}\n"));
    let ports = (0..rows.len()).map(|row| format!("{} : goto row{row}", port_of(row)));
    format!(
        "table inet test {{
            chain letin {{ accept; }}
            chain want_syn {{ tcp flags != syn drop; return; }}
            {}
            chain input {{
                type filter hook input priority 0; policy drop;
                ct state established,related accept
                tcp dport vmap {{ {} }}
            }}
        }}",
        chains.collect::<String>(),
        ports.collect::<Vec<_>>().join(", ")
    )
}

fn load(bed: &Topology, tool: &str, arguments: &[&str], rules: &str) -> Result<()> {
    bed.server.run(|| command::run_with_input(tool, arguments, rules)).map(drop)
}

fn load_nft(bed: &Topology, rules: &str) -> Result<()> {
    load(bed, "nft", &["-f", "-"], rules)
}

/// Both ends of a link. What goes to the flood's sources ends at the client's end.
fn topology() -> Result<Topology> {
    Topology::with(&Options { client_end: Some(Program::AbsorbFlood), ..Options::default() })
}

fn serve(bed: &Topology, ports: impl IntoIterator<Item = u16>, backlog: u32) -> Result<Vec<Server>> {
    let options = server::Options { backlog, ..server::Options::default() };
    ports
        .into_iter()
        .map(|port| Server::with(&bed.server, format!("[::]:{port}").parse()?, options))
        .collect()
}

fn both(bed: &Topology, port: u16) -> [SocketAddr; 2] {
    [bed.server_v4(port), bed.server_v6(port)]
}

/// Clients connect and are greeted.
fn clients(bed: &Topology, to: SocketAddr) -> Result<LoadReport> {
    let load = Load { deadline: PATIENCE, ..Load::new(bed, to) };
    load.with(bed, 100.0, Duration::from_millis(10 * CLIENTS)).run(&bed.client)
}

fn all_get_in(bed: &Topology, to: SocketAddr) -> Result<()> {
    let report = clients(bed, to)?;
    let (refused, timed_out) = report.failed();
    ensure!(refused + timed_out == 0, "to {to}: {refused} refused, {timed_out} gave up of {CLIENTS}");
    Ok(())
}

/// What `doctor` says of the firewall.
fn examine(bed: &Topology, defender: &Controller<'_>) -> Result<Vec<String>> {
    let output = run(bed, defender.pin_root(), &["doctor", "--iface", SERVER_INTERFACE, "--json"])?;
    let report: Value = serde_json::from_slice(&output.stdout).context("doctor prints no JSON")?;
    let checks = report["checks"].as_array().context("no checks")?;
    let found = checks.iter().filter(|check| check["name"] == "firewall" || check["name"] == "redirect");
    Ok(found.filter_map(|check| check["found"].as_str()).map(str::to_owned).collect())
}

/// Whether it is reported how a service is treated.
fn is_told(defender: &Controller<'_>, examined: &[String], port: u16, made: Made) -> Result<()> {
    let reason = services(defender, port)?[0]["unprotectable"].clone();
    let is_about = |found: &&String| {
        let ports = found.split(": ").next().unwrap_or_default();
        ports.split([' ', ',']).any(|one| one == port.to_string())
    };
    let found: Vec<_> = examined.iter().filter(is_about).collect();
    match made {
        Made::Challenged => {
            ensure!(reason.is_null(), "unprotectable: {reason}");
            ensure!(found.is_empty(), "doctor: {found:?}");
        }
        Made::Told(words) => {
            ensure!(reason.is_null(), "unprotectable: {reason}");
            ensure!(found.len() == 1 && found[0].contains(words), "doctor: {found:?}");
        }
        Made::Passed(words) => {
            ensure!(reason.as_str().is_some_and(|reason| reason.contains(words)), "unprotectable: {reason}");
            ensure!(found.first().is_some_and(|found| found.contains(words)), "doctor: {found:?}");
            for arguments in [&["status"][..], &["explain", &port.to_string()]] {
                let told = defender.ask(arguments)?;
                ensure!(told.contains("unprotectable") && told.contains(words), "{told}");
            }
        }
    }
    Ok(())
}

/// In mode `always`: all clients get in, challenged or not.
fn try_always(bed: &Topology, defender: &Controller<'_>, port: u16, made: Made) -> Result<()> {
    for to in both(bed, port) {
        let before = Counts::of(defender)?;
        all_get_in(bed, to)?;
        let counts = &Counts::of(defender)? - &before;
        let (challenged, passed) = (counts.get("syn_challenged"), counts.get("pass.syn_unprotectable"));
        let is_passed = matches!(made, Made::Passed(_));
        ensure!(if is_passed { challenged == 0 } else { challenged >= CLIENTS }, "{counts}");
        ensure!(if is_passed { passed >= CLIENTS } else { passed == 0 }, "{counts}");
    }
    Ok(())
}

/// Tries all, and tells of all that failed.
fn try_each<'r>(rows: impl IntoIterator<Item = (&'r str, Result<()>)>) -> Result<()> {
    let failures: Vec<_> = rows
        .into_iter()
        .filter_map(|(what, tried)| tried.err().map(|error| format!("{what}: {error:#}")))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn clients_get_in_whatever_the_rules() -> Result<()> {
    let bed = topology()?;
    load_nft(&bed, &table(&ROWS))?;
    let _servers = serve(&bed, (0..ROWS.len()).map(port_of), server::BACKLOG)?;
    let defender = start(&bed, &["--mode", "always"])?;
    defender.wait_for_listener(port_of(ROWS.len() - 1))?;
    let examined = examine(&bed, &defender)?;
    try_each(ROWS.iter().enumerate().map(|(row, Row { rules, made })| {
        let port = port_of(row);
        let told = is_told(&defender, &examined, port, *made);
        (*rules, told.and_then(|()| try_always(&bed, &defender, port, *made)))
    }))
}

/// Rules that the floods below run against.
const IN_A_FLOOD: [Row; 3] = [
    row("ct state new tcp flags & (fin|syn|rst|ack) != syn drop; accept", SYN_REQUIRED),
    row("tcp flags & (fin|syn|rst|ack) == syn accept", ONLY_SYNS_ACCEPTED),
    row("ct state new accept", Made::Challenged),
];

#[test]
fn clients_get_in_while_a_small_flood_goes_on() -> Result<()> {
    let bed = topology()?;
    load_nft(&bed, &table(&IN_A_FLOOD))?;
    let _servers = serve(&bed, (0..IN_A_FLOOD.len()).map(port_of), 64)?;
    let defender = start(&bed, &["--mode", "auto"])?;
    defender.wait_for_listener(port_of(IN_A_FLOOD.len() - 1))?;
    let tried = IN_A_FLOOD.iter().enumerate().flat_map(|(row, Row { rules, made })| {
        both(&bed, port_of(row)).map(|to| (*rules, try_flood(&bed, &defender, to, *made)))
    });
    try_each(tried)
}

fn try_flood(bed: &Topology, defender: &Controller<'_>, to: SocketAddr, made: Made) -> Result<()> {
    const RATE: u64 = 400;
    let flood = Flood::new(Kind::LinuxSyn, to);
    let source = if to.is_ipv4() { Range::V4([198, 18, 0, 0].into(), 16) } else { flood.source };
    let max_time = Duration::from_secs(10);
    let flood = Flood { source, rate: Some(RATE), max_time, max_packets: RATE * 10, ..flood }.start(bed)?;
    match made {
        Made::Passed(_) => eventually("the queue is full", || Ok(flood.sent()? > 300))?,
        _ => wait_active(defender, to.port())?,
    }
    all_get_in(bed, to)?;
    flood.stop()?;
    is_told(defender, &examine(bed, defender)?, to.port(), made)
}

const NAT: Made = Made::Passed("this host does NAT");

/// What other programs set up.
struct Host {
    name: &'static str,
    tool: &'static str,
    rules: &'static str,
    /// With IPv6 as well.
    v6: bool,
    ports: &'static [(u16, Made)],
}

const HOSTS: [Host; 5] = [
    Host {
        name: "ufw",
        tool: "iptables-restore",
        rules: include_str!("ufw.rules"),
        v6: false,
        ports: &[(22, Made::Challenged), (80, Made::Challenged)],
    },
    Host {
        name: "firewalld",
        tool: "nft",
        rules: include_str!("firewalld.nft"),
        v6: true,
        ports: &[(22, NAT), (80, NAT)],
    },
    Host {
        name: "docker",
        tool: "iptables-restore",
        rules: include_str!("docker.rules"),
        v6: false,
        ports: &[(22, NAT), (80, NAT)],
    },
    Host {
        name: "a hardening guide",
        tool: "iptables-restore",
        rules: include_str!("guide.rules"),
        v6: false,
        ports: &[(22, SYN_REQUIRED), (80, SYN_REQUIRED)],
    },
    Host {
        name: "a stateless firewall, legacy",
        tool: "iptables-legacy-restore",
        rules: include_str!("stateless.rules"),
        v6: false,
        ports: &[(22, Made::Challenged), (80, ONLY_SYNS_ACCEPTED)],
    },
];

#[test]
fn firewalls_of_the_world_are_understood() -> Result<()> {
    try_each(HOSTS.iter().map(|host| (host.name, try_host(host))))
}

fn try_host(host: &Host) -> Result<()> {
    let bed = topology()?;
    let arguments: &[&str] = if host.tool == "nft" { &["-f", "-"] } else { &[] };
    load(&bed, host.tool, arguments, host.rules)?;
    let _servers = serve(&bed, host.ports.iter().map(|(port, _)| *port), server::BACKLOG)?;
    let defender = start(&bed, &["--mode", "always"])?;
    for (port, made) in host.ports {
        defender.wait_for_listener(*port)?;
        is_told(&defender, &examine(&bed, &defender)?, *port, *made)
            .with_context(|| format!("port {port}"))?;
        for to in both(&bed, *port).into_iter().filter(|to| host.v6 || to.is_ipv4()) {
            all_get_in(&bed, to)?;
        }
    }
    Ok(())
}

/// Nobody gets in who would not without a defender.
#[test]
fn nobody_is_answered_whom_the_firewall_keeps_out() -> Result<()> {
    const KEEPS_OUT: [Row; 4] = [
        row("drop", Made::Passed("lets nobody in")),
        row("ct state new tcp flags syn drop; accept", Made::Passed("lets nobody in")),
        row(
            "tcp flags syn ip saddr 10.208.0.0/12 drop; accept",
            Made::Passed("by dropping their SYNs alone"),
        ),
        row(
            "tcp flags & (fin|syn|rst|ack) == syn meta mark 7 accept; tcp flags syn drop; accept",
            Made::Passed("by dropping their SYNs alone"),
        ),
    ];
    let bed = topology()?;
    load_nft(&bed, &table(&KEEPS_OUT))?;
    let _servers = serve(&bed, (0..KEEPS_OUT.len()).map(port_of), server::BACKLOG)?;
    let defender = start(&bed, &["--mode", "always"])?;
    defender.wait_for_listener(port_of(KEEPS_OUT.len() - 1))?;
    let examined = examine(&bed, &defender)?;
    try_each(KEEPS_OUT.iter().enumerate().map(|(row, Row { rules, made })| {
        let keeps_out = || -> Result<()> {
            is_told(&defender, &examined, port_of(row), *made)?;
            let to = bed.server_v4(port_of(row));
            let from = Some(bed.fresh_client(to));
            let connected = client::connect_from(&bed.client, from, to, Duration::from_millis(300)).is_ok();
            ensure!(!connected, "a client is connected");
            Ok(())
        };
        (*rules, keeps_out())
    }))
}

#[test]
fn conntrack_that_becomes_strict_is_noticed_and_so_are_new_rules() -> Result<()> {
    const PORT: u16 = 80;
    const LOOSE: &str = "net.netfilter.nf_conntrack_tcp_loose";
    let bed = topology()?;
    load_nft(
        &bed,
        "table inet test { chain input { type filter hook input priority 0; ct state invalid drop; }; }",
    )?;
    let _servers = serve(&bed, [PORT], server::BACKLOG)?;
    let defender = start_always(&bed, &[PORT])?;
    let try_it = |made| {
        is_told(&defender, &examine(&bed, &defender)?, PORT, made)?;
        try_always(&bed, &defender, PORT, made)
    };
    try_it(Made::Challenged)?;
    let becomes = |passes: bool| {
        eventually("the change is noticed", || {
            Ok(services(&defender, PORT)?[0]["unprotectable"].is_string() == passes)
        })
    };
    bed.server.set_sysctl(LOOSE, 0)?;
    becomes(true)?;
    try_it(Made::Passed("nf_conntrack_tcp_loose is 0"))?;
    bed.server.set_sysctl(LOOSE, 1)?;
    becomes(false)?;
    load_nft(&bed, "insert rule inet test input ct state new tcp flags != syn drop")?;
    becomes(true)?;
    try_it(SYN_REQUIRED)
}

/// Closed to IPv6, open to IPv4: that is told, and the service is challenged.
#[test]
fn a_port_that_is_closed_in_part_is_told() -> Result<()> {
    const PORT: u16 = 80;
    let bed = topology()?;
    load_nft(
        &bed,
        "table ip6 test { chain input { type filter hook input priority 0; tcp dport 80 drop; }; }",
    )?;
    let _servers = serve(&bed, [PORT], server::BACKLOG)?;
    let defender = start_always(&bed, &[PORT])?;
    all_get_in(&bed, bed.server_v4(PORT))?;
    let warnings = status(&defender)?["warnings"].to_string();
    ensure!(warnings.contains("lets nobody in"), "{warnings}");
    Ok(())
}
