//! The testbed tests itself: namespaces, frames, captures, clients, floods. Needs root.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use defender_testbed::{
    capture::Capture,
    cleanup::NETNS_DIR,
    client::{self, Load},
    flood::{Flood, Kind},
    frame::{Checksum, Extension, SumState, TcpFrame, flag},
    inject::Injector,
    interface,
    netns::{self, Namespace},
    programs::Program,
    server::{self, GREETING, Server},
    simulated_clients::{SimulatedClients, SimulationReport},
    speed::Watch,
    topology::{BEHIND_V4, CLIENT_INTERFACE, Options, SERVER_INTERFACE, Topology},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const QUIET: Duration = Duration::from_millis(100);

/// How long something may take that happens by itself, on a machine that is slow and does other things.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_namespace_is_named_entered_and_removed() -> Result<()> {
    let namespace = Namespace::new("self")?;
    let path = namespace.path();
    assert!(path.exists());
    namespace.set_sysctl("net.ipv4.tcp_syncookies", 2)?;
    assert_eq!(namespace.sysctl("net.ipv4.tcp_syncookies")?, "2");
    assert_ne!(
        fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?.trim(),
        "2",
        "the machine's own changed"
    );
    assert!(namespace.set_sysctl("kernel.pid_max", 1).is_err());
    drop(namespace);
    assert!(!path.exists());
    Ok(())
}

#[test]
fn inside_and_outside_are_told_apart() -> Result<()> {
    assert!(netns::ensure_inside_own().is_err());
    let namespace = Namespace::new("self")?;
    namespace.run(netns::ensure_inside_own)?;
    assert!(netns::ensure_inside_own().is_err());
    Ok(())
}

#[test]
fn pins_stay_visible_inside() -> Result<()> {
    let outside = Path::new("/sys/fs/bpf").metadata()?;
    let namespace = Namespace::new("self")?;
    let inside = namespace.run(|| Ok(Path::new("/sys/fs/bpf").metadata()?))?;
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((outside.dev(), outside.ino()), (inside.dev(), inside.ino()));
    Ok(())
}

#[test]
fn commands_run_inside() -> Result<()> {
    let bed = Topology::new()?;
    let output = bed.server.command("ip")?.args(["-o", "link"]).output()?;
    let links = String::from_utf8(output.stdout)?;
    assert!(links.contains(SERVER_INTERFACE), "{links}");
    Ok(())
}

#[test]
fn a_panic_cleans_up() {
    let mut path = None;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let namespace = Namespace::new("panic").unwrap();
        path = Some(namespace.path());
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(!path.unwrap().exists());
}

/// In a process of its own, for the signal ends it: this same test, told by a variable that it is the one to be ended.
#[test]
fn a_signal_cleans_up() -> Result<()> {
    const CHILD: &str = "DEFENDER_TESTBED_TO_BE_ENDED";
    if env::var_os(CHILD).is_some() {
        let namespace = Namespace::new("signal")?;
        println!("\n{}", namespace.path().display());
        thread::sleep(PATIENCE);
        return Ok(());
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--exact", "a_signal_cleans_up", "--nocapture"]).env(CHILD, "");
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let path = lines.map_while(Result::ok).find(|line| line.starts_with(NETNS_DIR)).context("no path")?;
        assert!(Path::new(&path).exists());
        kill(Pid::from_raw(child.id() as i32), signal)?;
        assert_eq!(child.wait()?.code(), Some(128 + signal as i32));
        assert!(!Path::new(&path).exists(), "{signal} left {path}");
    }
    Ok(())
}

#[test]
fn clients_connect_over_both_families() -> Result<()> {
    for offload in [true, false] {
        let bed = Topology::with(&Options { checksum_offload: offload, ..Options::default() })?;
        for address in [bed.server_v4(80), bed.server_v6(80)] {
            let server = Server::start(&bed.server, address)?;
            let from = bed.fresh_client(address);
            let mut stream = client::connect_from(&bed.client, Some(from), address, PATIENCE)?;
            let mut bytes = [0; 5];
            stream.write_all(b"echo")?;
            stream.read_exact(&mut bytes)?;
            assert_eq!(&bytes, &[GREETING, b'e', b'c', b'h', b'o']);
            let accepted = server.wait_for(stream.local_addr()?, PATIENCE)?;
            assert_eq!(accepted.peer.ip(), from.ip());
            assert!(accepted.info.has_all_options(), "{accepted:?}");
        }
    }
    Ok(())
}

#[test]
fn nobody_listens_and_nobody_accepts() -> Result<()> {
    let bed = Topology::new()?;
    let closed = client::connect(&bed.client, bed.server_v4(81), PATIENCE);
    assert!(closed.unwrap_err().root_cause().to_string().contains("refused"));
    let options = server::Options { accept: false, mptcp: true, ..server::Options::default() };
    let server = Server::with(&bed.server, bed.server_v4(0), options)?;
    client::connect(&bed.client, server.address(), PATIENCE)?;
    assert!(server.accepted().is_empty());
    Ok(())
}

#[test]
fn raw_frames_are_answered_by_the_kernel() -> Result<()> {
    let bed = Topology::new()?;
    // It does not repeat its answers.
    bed.server.set_sysctl("net.ipv4.tcp_synack_retries", 0)?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let capture = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let source: SocketAddr = "198.18.7.7:4711".parse()?;
    let syn = TcpFrame::linux_syn(source, server.address(), 1000);
    capture.send(syn.build())?;
    let answer = capture.next_tcp(PATIENCE, |seen| seen.destination == source)?.expect("a SYN-ACK");
    assert!(answer.is(flag::SYN | flag::ACK));
    assert_eq!(answer.ack, 1001);
    assert_eq!(answer.options.mss, Some(1460));
    assert!(answer.ip_checksum_valid);
    capture.send(syn.clone().checksum(Checksum::Wrong).build())?;
    assert_eq!(capture.tcp_until_quiet(QUIET)?, [], "a wrong checksum was answered");
    let other =
        TcpFrame::linux_syn("198.18.7.8:4711".parse()?, server.address(), 1).checksum(Checksum::Partial);
    capture.send_partial(other.build(), 34)?;
    let answer = capture.next_tcp(PATIENCE, |_| true)?.expect("a pending checksum is accepted");
    assert!(answer.is(flag::SYN | flag::ACK));
    assert_eq!(capture.tcp_until_quiet(QUIET)?, [], "it was answered twice");
    Ok(())
}

#[test]
fn tags_and_headers_arrive_as_they_were_sent() -> Result<()> {
    let bed = Topology::new()?;
    let client = Capture::incoming(&bed.client, CLIENT_INTERFACE)?;
    let server = Capture::incoming(&bed.server, SERVER_INTERFACE)?;
    let (v4, v6) = (bed.server_v4(80), bed.server_v6(80));
    let frames = [
        TcpFrame::linux_syn("198.18.0.1:1".parse()?, v4, 1).vlan_tag(0x88a8, 0x2064).vlan(7),
        TcpFrame::linux_syn("198.18.0.1:2".parse()?, v4, 1).ip_options(&[1, 1, 1, 0]),
        TcpFrame::linux_syn("[2001:db8:f::1]:3".parse()?, v6, 1).extension(Extension::DestinationOptions(4)),
        TcpFrame::linux_syn("198.18.0.1:4".parse()?, v4, 1).payload(&[7; 1000]),
    ];
    for frame in &frames {
        client.send(frame.build())?;
        assert_eq!(next_tcp_bytes(&server)?, frame.build());
    }
    let mut injector = Injector::new(&bed.client, CLIENT_INTERFACE)?;
    injector.send(&frames.each_ref().map(TcpFrame::build))?;
    for frame in &frames {
        assert_eq!(next_tcp_bytes(&server)?, frame.build());
    }
    // Again: the pages are recycled, and must not show.
    injector.send(&[frames[3].build(), frames[1].build()])?;
    assert_eq!(next_tcp_bytes(&server)?, frames[3].build());
    assert_eq!(next_tcp_bytes(&server)?, frames[1].build());
    Ok(())
}

#[test]
fn the_server_forwards_to_the_host_behind() -> Result<()> {
    let bed = Topology::with(&Options { behind: true, ..Options::default() })?;
    let behind = bed.behind.as_ref().expect("asked for");
    let server = Server::start(behind, SocketAddr::new(BEHIND_V4.into(), 80))?;
    let from = bed.fresh_client(server.address());
    client::connect_from(&bed.client, Some(from), server.address(), PATIENCE)?;
    Ok(())
}

#[test]
fn what_the_server_end_sends_back_is_counted() -> Result<()> {
    let mut bed = Topology::new()?;
    bed.set_client_end(Some(Program::Absorb))?;
    for (program, arrived) in [(Program::SwapTx, 200), (Program::RewriteTx, 400)] {
        let sender = bed.attach_server_end(program)?;
        let report =
            Flood { max_packets: 200, rate: Some(10_000), ..Flood::new(Kind::LinuxSyn, bed.server_v4(80)) }
                .run_to_end(&bed)?;
        assert_eq!(report.sent, 200);
        let counted = || -> Result<_> {
            Ok((sender.counters()?.sent_back, bed.client_end().expect("set").counters()?.spoofed_others))
        };
        let deadline = Instant::now() + PATIENCE;
        while counted()? != (200, arrived) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(counted()?, (200, arrived), "{program:?}");
    }
    Ok(())
}

#[test]
fn every_kind_of_flood_has_right_checksums_and_many_sources() -> Result<()> {
    let bed = Topology::new()?;
    let capture = Capture::incoming(&bed.server, SERVER_INTERFACE)?;
    for target in [bed.server_v4(80), bed.server_v6(80)] {
        for kind in [
            Kind::LinuxSyn,
            Kind::WindowsSyn,
            Kind::PlainSyn,
            Kind::Ack,
            Kind::PlainAck,
            Kind::Rst,
            Kind::SynAck,
        ] {
            capture.clear()?;
            let report = Flood { max_packets: 100, ..Flood::new(kind, target) }.run_to_end(&bed)?;
            assert_eq!(report.sent, 100);
            let seen = capture.tcp_until_quiet(QUIET)?;
            assert_eq!(seen.len(), 100, "{kind:?} to {target}");
            assert!(
                seen.iter().all(|seen| seen.checksum == SumState::Valid && seen.ip_checksum_valid),
                "{seen:?}"
            );
            assert!(seen.iter().all(|seen| seen.source.port() >= 1024 && seen.destination == target));
            let mut sources: Vec<_> = seen.iter().map(|seen| seen.source).collect();
            sources.sort();
            sources.dedup();
            assert!(sources.len() > 95, "{sources:?}");
        }
    }
    Ok(())
}

#[test]
fn a_flood_keeps_its_pace_and_ends_in_time() -> Result<()> {
    let bed = Topology::new()?;
    let _drop = bed.attach_server_end(Program::DropRange)?;
    let flood = Flood {
        rate: Some(50_000),
        max_time: Duration::from_millis(500),
        ..Flood::new(Kind::LinuxSyn, bed.server_v4(80))
    };
    let report = flood.run_to_end(&bed)?;
    assert!(report.elapsed >= Duration::from_millis(400) && report.elapsed < PATIENCE, "{report:?}");
    // Never faster than asked for. On a busy machine it gives up what it could not send in time.
    assert!((1..=25_100).contains(&report.sent), "{report:?}");
    // Stopping early works as well.
    let handle = Flood { max_time: PATIENCE * 2, ..flood }.start(&bed)?;
    handle.wait_until_running()?;
    assert!(handle.stop()?.elapsed < PATIENCE);
    Ok(())
}

#[test]
fn a_load_succeeds_in_calm() -> Result<()> {
    let bed = Topology::new()?;
    let server = Server::start(&bed.server, bed.server_v4(80))?;
    let load = Load { deadline: PATIENCE, ..Load::new(&bed, server.address()) };
    let report = load.with(&bed, 200.0, QUIET * 5).run(&bed.client)?;
    assert_eq!((report.clients.len(), report.failed()), (100, (0, 0)));
    assert_eq!(report.success(), 1.0);
    assert_eq!(server.take_accepted().len(), 100);
    let statistics = interface::statistics(&bed.server, SERVER_INTERFACE)?;
    assert!(statistics.rx_packets >= 300, "{statistics:?}");
    Ok(())
}

#[test]
fn simulated_clients_complete_their_handshakes() -> Result<()> {
    for program in [Program::Pass, Program::AbsorbFlood] {
        let bed = Topology::with(&Options { client_end: Some(program), ..Options::default() })?;
        for target in [bed.server_v4(80), bed.server_v6(80)] {
            let server = Server::start(&bed.server, target)?;
            let report = SimulatedClients::new(&bed, target).of(&bed, 2000, 2000).run(&bed)?;
            assert_eq!((report.completed, report.reset), (2000, 0), "{report:?}");
            let mut peers: Vec<_> = server.take_accepted().iter().map(|accepted| accepted.peer).collect();
            peers.sort();
            peers.dedup();
            assert_eq!(peers.len(), 2000);
        }
        // Nobody listens.
        let report = SimulatedClients::new(&bed, bed.server_v4(81)).of(&bed, 10, 1000).run(&bed)?;
        assert_eq!(report, SimulationReport { syns: 10, reset: 10, ..SimulationReport::default() });
    }
    Ok(())
}

/// The bytes of the next frame that is TCP; neighbours and multicast routers talk as well.
fn next_tcp_bytes(capture: &Capture) -> Result<Vec<u8>> {
    loop {
        let frame = capture.next(PATIENCE)?.expect("a frame");
        if frame.tcp().is_some() {
            return Ok(frame.bytes);
        }
    }
}

#[test]
fn a_processor_is_watched() -> Result<()> {
    let before = Instant::now();
    let watch = Watch::start(0)?;
    thread::sleep(QUIET);
    let speeds = watch.stop()?;
    assert!((0.0..=1.0).contains(&speeds.full_share()));
    // Nobody watched then.
    let (early, late) = (before - QUIET, Instant::now() + QUIET);
    assert!(!speeds.were_full(early..before) && !speeds.were_full(before..late));
    Ok(())
}
