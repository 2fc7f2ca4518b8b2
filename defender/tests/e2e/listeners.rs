//! Every kind of listener: on one address or device, for both families, in groups, new, closed, with Multipath TCP, with a full
//! queue; and third-party programs on the interface.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{LinkOrder, TcAttachType};
use defender_testbed::{
    capture::Capture,
    client,
    controller::{Controller, fresh_pin_root},
    flood::{Flood, Kind},
    frame::{TcpFrame, flag},
    programs::{Program, Watcher},
    server::{self, Server},
    topology::{CLIENT_INTERFACE, CLIENT_V4, Options, SERVER_INTERFACE, SERVER_V4, SERVER_V6, Topology},
};

use crate::harness::{
    CLIENT_PATIENCE, Counts, PROGRAM, connect, connect_in_flood, counts_when, eventually, run, services,
    start, start_always, status, talk, wait_active,
};

/// Connects from a fresh address and reads the greeting.
fn visit(bed: &Topology, address: SocketAddr) -> Result<TcpStream> {
    connect(bed, bed.fresh_client(address), address)
}

/// Whether the kernel answers with a RST.
fn is_refused(bed: &Topology, address: SocketAddr) -> Result<bool> {
    let from = bed.fresh_client(address);
    match client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE) {
        Ok(_) => Ok(false),
        Err(error) if error.root_cause().to_string().contains("refused") => Ok(true),
        Err(error) => Err(error),
    }
}

/// The clients that a server accepted, as they see themselves.
fn peers(server: &Server) -> Vec<SocketAddr> {
    let canonical = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port());
    server.accepted().iter().map(|accepted| canonical(accepted.peer)).collect()
}

/// What the defender counts while `job` runs.
fn counts_of(defender: &Controller<'_>, job: impl FnOnce() -> Result<()>) -> Result<Counts> {
    let before = Counts::of(defender)?;
    job()?;
    Ok(&Counts::of(defender)? - &before)
}

/// Asserts that a client is let through to the kernel, which refuses it.
fn assert_refused_by_kernel(bed: &Topology, defender: &Controller<'_>, address: SocketAddr) -> Result<()> {
    let counts = counts_of(defender, || {
        ensure!(is_refused(bed, address)?, "{address} is answered");
        Ok(())
    })?;
    counts.assert(&[("syn_challenged", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}

#[test]
fn a_listener_bound_to_one_address() -> Result<()> {
    let bed = Topology::new()?;
    bed.server.ip("address add 10.204.0.1/32 dev srv0")?;
    bed.server.ip("address add 2001:db8:4::1/128 dev srv0 nodad")?;
    bed.client.ip(&format!("route add 10.204.0.1/32 via {SERVER_V4}"))?;
    bed.client.ip(&format!("route add 2001:db8:4::1/128 via {SERVER_V6}"))?;
    for (bound, other) in [(bed.server_v4(80), "10.204.0.1:80"), (bed.server_v6(80), "[2001:db8:4::1]:80")] {
        let _server = Server::start(&bed.server, bound)?;
        let defender = start_always(&bed, &[80])?;
        counts_of(&defender, || visit(&bed, bound).map(drop))?.assert_connections(1);
        assert_refused_by_kernel(&bed, &defender, other.parse()?)?;
    }
    Ok(())
}

#[test]
fn a_dual_stack_listener_serves_both_families() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, "[::]:80".parse()?)?;
    let defender = start_always(&bed, &[80])?;
    let counts = counts_of(&defender, || {
        let v4 = visit(&bed, bed.server_v4(80))?.local_addr()?;
        let v6 = visit(&bed, bed.server_v6(80))?.local_addr()?;
        server.wait_for(v6, CLIENT_PATIENCE)?;
        assert_eq!(peers(&server), [v4, v6]);
        assert!(server.accepted().iter().all(|accepted| accepted.info.has_all_options()));
        Ok(())
    })?;
    counts.assert_connections(2);
    Ok(())
}

#[test]
fn two_wildcard_listeners_each_get_their_family() -> Result<()> {
    let bed = Topology::new()?;
    let only = server::Options { v6_only: true, ..server::Options::default() };
    let v6 = Server::with(&bed.server, "[::]:80".parse()?, only)?;
    let defender = start_always(&bed, &[80])?;
    // Nothing listens for IPv4 yet.
    assert_refused_by_kernel(&bed, &defender, bed.server_v4(80))?;
    let v4 = Server::start(&bed.server, "0.0.0.0:80".parse()?)?;
    eventually("both are known", || Ok(services(&defender, 80)?.len() == 2))?;
    wait_active(&defender, 80)?;
    let counts = counts_of(&defender, || {
        let first = visit(&bed, bed.server_v4(80))?.local_addr()?;
        let second = visit(&bed, bed.server_v6(80))?.local_addr()?;
        assert_eq!((peers(&v4), peers(&v6)), (vec![first], vec![second]));
        Ok(())
    })?;
    counts.assert_connections(2);
    Ok(())
}

#[test]
fn every_socket_of_a_reuseport_group_gets_connections() -> Result<()> {
    const CONNECTIONS: usize = 80;
    let bed = Topology::new()?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let share = server::Options { reuse_port: true, ..server::Options::default() };
        let group: Vec<_> =
            (0..4).map(|_| Server::with(&bed.server, address, share)).collect::<Result<_>>()?;
        let defender = start_always(&bed, &[80])?;
        let counts =
            counts_of(&defender, || (0..CONNECTIONS).try_for_each(|_| visit(&bed, address).map(drop)))?;
        counts.assert_connections(CONNECTIONS as u64);
        let each: Vec<_> = group.iter().map(|server| server.accepted().len()).collect();
        assert!(each.iter().all(|accepted| *accepted > 0), "{each:?}");
        assert_eq!(each.iter().sum::<usize>(), CONNECTIONS, "{each:?}");
    }
    Ok(())
}

#[test]
fn a_listener_bound_to_a_device() -> Result<()> {
    let bed = Topology::new()?;
    let on = |device| server::Options { device: Some(device), ..server::Options::default() };
    let server = Server::with(&bed.server, "0.0.0.0:80".parse()?, on(SERVER_INTERFACE))?;
    let _elsewhere = Server::with(&bed.server, "0.0.0.0:81".parse()?, on("lo"))?;
    let defender = start_always(&bed, &[80])?;
    let counts = counts_of(&defender, || {
        let from = visit(&bed, bed.server_v4(80))?.local_addr()?;
        assert_eq!(peers(&server), [from]);
        Ok(())
    })?;
    counts.assert_connections(1);
    // The listener of another device does not answer.
    assert_refused_by_kernel(&bed, &defender, bed.server_v4(81))
}

#[test]
fn a_listener_that_appears_later_is_protected() -> Result<()> {
    let bed = Topology::new()?;
    let defender = start(&bed, &["--mode", "always"])?;
    for address in [bed.server_v4(80), bed.server_v6(81)] {
        let _server = Server::start(&bed.server, address)?;
        wait_active(&defender, address.port())?;
        counts_of(&defender, || visit(&bed, address).map(drop))?.assert_connections(1);
    }
    Ok(())
}

/// After so long, a listener that has ended is not answered for any more.
const FORGOTTEN: Duration = Duration::from_millis(100);

#[test]
fn a_dead_listener_is_not_answered() -> Result<()> {
    let bed = Topology::new()?;
    let address = bed.server_v4(80);
    let capture = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let mut server = Server::start(&bed.server, address)?;
    let defender = start_always(&bed, &[80])?;
    for port in 2000..2004 {
        let counts = counts_of(&defender, || {
            assert_eq!(knock(&capture, port, address)?, flag::SYN | flag::ACK, "while it listens");
            Ok(())
        })?;
        counts.assert(&[("syn_challenged", 1)]);
        drop(server);
        thread::sleep(FORGOTTEN);
        let counts = counts_of(&defender, || {
            let answer = knock(&capture, port + 100, address)?;
            assert_eq!(answer, flag::RST | flag::ACK, "after it has ended");
            Ok(())
        })?;
        counts.assert(&[("syn_challenged", 0)]);
        counts.assert_no_drops_but(&[]);
        server = Server::start(&bed.server, address)?;
        wait_active(&defender, 80)?;
    }
    Ok(())
}

/// Sends a SYN from an address that answers nothing; returns the flags of what comes back.
fn knock(capture: &Capture, port: u16, to: SocketAddr) -> Result<u8> {
    let from: SocketAddr = SocketAddr::new("198.18.7.7".parse()?, port);
    capture.send(TcpFrame::linux_syn(from, to, 1000).build())?;
    let answer = capture.next_tcp(CLIENT_PATIENCE, |seen| seen.destination == from)?;
    Ok(answer.context("no answer")?.flags)
}

#[test]
fn a_service_is_restarted_in_a_flood() -> Result<()> {
    // It is stopped long before.
    const PACKETS: u64 = 3_000_000;
    let options = Options { client_end: Some(Program::Absorb), ..Options::default() };
    let bed = Topology::with(&options)?;
    let address = bed.server_v4(80);
    let mut server = Server::start(&bed.server, address)?;
    let defender = start_always(&bed, &[80])?;
    let before = Counts::of(&defender)?;
    let flood = Flood {
        rate: Some(50_000),
        max_packets: PACKETS,
        max_time: Duration::from_secs(60),
        ..Flood::new(Kind::LinuxSyn, address)
    };
    let flood = flood.start(&bed)?;
    flood.wait_until_running()?;
    let mut connections = 0;
    let visit = || connect_in_flood(&bed, bed.fresh_client(address), address).map(drop);
    for _ in 0..3 {
        visit()?;
        connections += 1;
        drop(server);
        // The table of services stands in for the listener, and follows as soon as the controller has heard.
        eventually("nobody is let in where nothing listens", || is_refused(&bed, address))?;
        server = Server::start(&bed.server, address)?;
    }
    wait_active(&defender, 80)?;
    visit()?;
    connections += 1;
    assert!(flood.sent()? < PACKETS, "the flood was over too early to show anything");
    flood.stop()?;
    let counts = &Counts::of(&defender)? - &before;
    counts.assert_none_but("drop.", &["drop.syn_over_budget", "drop.ack_bad_cookie", "drop.rst_unknown"]);
    assert!(counts.get("handoff_established") <= connections, "{counts}");
    assert!(counts.get("syn_challenged") > 1000, "{counts}");
    Ok(())
}

/// Addresses that come and go, as a failover moves them: what is to them is challenged as long as they are this host's.
#[test]
fn addresses_come_and_go() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, "[::]:80".parse()?)?;
    let defender = start(&bed, &["--mode", "always"])?;
    defender.wait_for_listener(80)?;
    bed.client.ip(&format!("route add 10.204.0.9/32 via {SERVER_V4}"))?;
    bed.client.ip(&format!("route add 2001:db8:0:9::9/128 via {SERVER_V6}"))?;
    for (address, prefix) in
        [("10.204.0.9:80", "10.204.0.9/32"), ("[2001:db8:0:9::9]:80", "2001:db8:0:9::9/128")]
    {
        let address: SocketAddr = address.parse()?;
        let knock = |verdict: &str| {
            eventually(verdict, || {
                let counts = counts_of(&defender, || {
                    // Nobody need answer.
                    let from = bed.fresh_client(address);
                    let _ =
                        client::connect_from(&bed.client, Some(from), address, Duration::from_millis(300));
                    Ok(())
                })?;
                Ok(counts.get(verdict) > 0)
            })
        };
        for _ in 0..2 {
            knock("pass.not_local")?;
            bed.server.ip(&format!("address add {prefix} dev srv0"))?;
            knock("syn_challenged")?;
            talk(&mut visit(&bed, address)?)?;
            bed.server.ip(&format!("address del {prefix} dev srv0"))?;
        }
        knock("pass.not_local")?;
    }
    Ok(())
}

/// An interface that is taken away and comes back under its name is defended again; so it is told.
#[test]
fn an_interface_comes_back() -> Result<()> {
    let bed = Topology::new()?;
    bed.server
        .ip_batch("link add extra0 type veth peer name extra1\nlink set extra0 up\nlink set extra1 up\n")?;
    let _server = Server::start(&bed.server, "[::]:80".parse()?)?;
    let defender = Controller::start_at(
        &bed.server,
        PROGRAM.as_ref(),
        "srv0,extra0",
        &["--mode", "always"],
        fresh_pin_root(),
    )?;
    defender.wait_for_listener(80)?;
    let is_attached = || Ok(bed.server.ip("-d link show extra0")?.contains("prog/xdp"));
    ensure!(is_attached()?, "not attached");
    bed.server.ip("link del extra0")?;
    bed.server
        .ip_batch("link add extra0 type veth peer name extra1\nlink set extra0 up\nlink set extra1 up\n")?;
    eventually("it is attached again", is_attached)?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let counts = counts_of(&defender, || visit(&bed, address).map(drop))?;
        counts.assert(&[("syn_challenged", 1), ("handoff_established", 1)]);
    }
    Ok(())
}

#[test]
fn a_multipath_tcp_listener_works_and_is_reported() -> Result<()> {
    let bed = Topology::new()?;
    let multipath = server::Options { mptcp: true, ..server::Options::default() };
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let _server = Server::with(&bed.server, address, multipath)?;
        let defender = start(&bed, &["--mode", "always"])?;
        defender.wait_for_listener(80)?;
        let service = &services(&defender, 80)?[0];
        assert_eq!(service["active"], false);
        let reason = service["unprotectable"].as_str().context("no reason")?;
        assert!(reason.contains("Multipath TCP"), "{reason}");
        let told = defender.ask(&["status"])?;
        assert!(told.contains("unprotectable") && told.contains("Multipath TCP"), "{told}");
        let counts = counts_of(&defender, || visit(&bed, address).map(drop))?;
        counts.assert(&[("syn_challenged", 0), ("syn_passed", 1), ("pass.syn_unprotectable", 1)]);
        counts.assert_no_drops_but(&[]);
    }
    Ok(())
}

#[test]
fn a_full_accept_queue_is_entered_later_by_clients_that_wait() -> Result<()> {
    enter_full_queue(Duration::from_millis(200))
}

#[test]
fn a_full_accept_queue_is_entered_later_by_clients_that_speak_at_once() -> Result<()> {
    enter_full_queue(Duration::ZERO)
}

/// More clients come than the accept queue takes. As from the kernel, those get no answer for whom there is no room; when the
/// server begins to accept, their SYNs come again. Each sends a word `pause` after it is connected.
fn enter_full_queue(pause: Duration) -> Result<()> {
    let bed = Topology::new()?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        // A queue of this length takes one more.
        let options = server::Options { backlog: 1, ..server::Options::default() };
        let listener = bed.server.run(|| server::listen(address, options))?;
        let defender = start_always(&bed, &[80])?;
        let before = Counts::of(&defender)?;
        let come = || -> Result<TcpStream> {
            let from = bed.fresh_client(address);
            let mut client = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
            thread::sleep(pause);
            client.write_all(b"late")?;
            Ok(client)
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(come)).collect();
            counts_when(&defender, &before, "the queue is full", |counts| {
                counts.get("handoff_established") == 2
            })?;
            // Nobody else gets in.
            thread::sleep(Duration::from_millis(300));
            (&Counts::of(&defender)? - &before).assert(&[("handoff_established", 2)]);
            let mut accepted = Vec::new();
            let all = eventually("all connections are accepted", || {
                accepted.extend(listener.accept().ok());
                Ok(accepted.len() == clients.len())
            });
            all.with_context(|| format!("to {address}: {} of {}", accepted.len(), clients.len()))?;
            let clients: Vec<_> =
                clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Result<_>>()?;
            for (stream, peer) in accepted {
                let client = clients.iter().find(|client| client.local_addr().ok() == Some(peer));
                converse(&stream, client.context("a stranger")?)?;
            }
            let counts = &Counts::of(&defender)? - &before;
            counts.assert(&[("handoff_established", 4)]);
            counts.assert_no_drops_but(&["drop.syn_accept_queue_full"]);
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(())
}

/// The server hears what the client said, and answers.
fn converse(mut server: &TcpStream, mut client: &TcpStream) -> Result<()> {
    server.set_nonblocking(false)?;
    for stream in [server, client] {
        stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    }
    let mut word = [0; 4];
    server.read_exact(&mut word)?;
    assert_eq!(&word, b"late");
    server.write_all(b"than never")?;
    Ok(client.read_exact(&mut [0; 10])?)
}

#[test]
fn nothing_is_challenged_while_the_kernel_s_cookies_are_off() -> Result<()> {
    const KEY: &str = "net.ipv4.tcp_syncookies";
    let bed = Topology::new()?;
    let address = bed.server_v4(80);
    let _server = Server::start(&bed.server, address)?;
    bed.server.set_sysctl(KEY, 0)?;
    let defender = start(&bed, &["--mode", "always"])?;
    defender.wait_for_listener(80)?;
    for _ in 0..2 {
        let is_active = || Ok(services(&defender, 80)?[0]["active"] == true);
        eventually("it is suspended", || Ok(!is_active()?))?;
        let warnings = status(&defender)?["warnings"].to_string();
        assert!(warnings.contains(KEY), "{warnings}");
        let output = run(&bed, defender.pin_root(), &["status"])?;
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(1) && told.contains(KEY), "{told}");
        let counts = counts_of(&defender, || visit(&bed, address).map(drop))?;
        counts.assert(&[("syn_challenged", 0), ("pass.syn_suspended", 1)]);
        counts.assert_no_drops_but(&[]);

        bed.server.set_sysctl(KEY, 1)?;
        eventually("it goes on", is_active)?;
        eventually("nothing is told of it", || {
            Ok(!status(&defender)?["warnings"].to_string().contains(KEY))
        })?;
        counts_of(&defender, || visit(&bed, address).map(drop))?.assert_connections(1);
        bed.server.set_sysctl(KEY, 0)?;
    }
    Ok(())
}

#[test]
fn an_xdp_program_of_someone_else_stays() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let other = bed.attach_server_end(Program::Pass)?;
    for command in ["run", "attach"] {
        let pins = fresh_pin_root();
        let output = run(&bed, &pins, &[command, "--iface", SERVER_INTERFACE, "--mode", "always"])?;
        let complaint = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(SERVER_INTERFACE), "{complaint}");
        assert!(complaint.contains("XDP program pass "), "{complaint}");
        assert!(!pins.exists(), "{} is left", pins.display());
        let before = other.counters()?.packets;
        visit(&bed, bed.server_v4(80))?;
        assert!(other.counters()?.packets > before, "the other program is gone");
    }
    // When it has gone, there is room.
    drop(other);
    let defender = start_always(&bed, &[80])?;
    counts_of(&defender, || visit(&bed, bed.server_v4(80)).map(drop))?.assert_connections(1);
    Ok(())
}

#[test]
fn tcx_programs_of_others_still_run() -> Result<()> {
    let bed = Topology::new()?;
    let watch = |direction, order| Watcher::new(&bed.server, SERVER_INTERFACE, direction, order);
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let mut watchers = vec![
        watch(TcAttachType::Ingress, LinkOrder::first())?,
        watch(TcAttachType::Egress, LinkOrder::first())?,
    ];
    let defender = start_always(&bed, &[80])?;
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        watchers.push(watch(direction, LinkOrder::first())?);
        watchers.push(watch(direction, LinkOrder::last())?);
    }
    let all_count = || -> Result<()> {
        let packets = || watchers.iter().map(Watcher::packets).collect::<Result<Vec<_>>>();
        let before = packets()?;
        visit(&bed, bed.server_v4(80))?;
        let after = packets()?;
        assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?} {after:?}");
        Ok(())
    };
    counts_of(&defender, all_count)?.assert_connections(1);
    defender.stop()?;
    all_count()
}

#[test]
fn what_does_not_come_over_the_interface_is_left_alone() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, "0.0.0.0:80".parse()?)?;
    let defender = start_always(&bed, &[80])?;
    let counts = counts_of(&defender, || {
        let mut stream = client::connect(&bed.server, "127.0.0.1:80".parse()?, CLIENT_PATIENCE)?;
        stream.read_exact(&mut [0])?;
        // Out of the interface.
        let _client = Server::start(&bed.client, SocketAddr::new(CLIENT_V4.into(), 80))?;
        let mut stream =
            client::connect(&bed.server, SocketAddr::new(CLIENT_V4.into(), 80), CLIENT_PATIENCE)?;
        stream.read_exact(&mut [0])?;
        Ok(())
    })?;
    counts.assert(&[("syn_received", 0), ("syn_challenged", 0)]);
    counts.assert_no_drops_but(&[]);
    Ok(())
}
