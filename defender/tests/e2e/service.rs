//! Real programs through the defender in mode `always`: a web server, servers that speak first, bulk transfers during a flood;
//! over IPv4 and IPv6, with and without checksum offload at the client.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client,
    controller::Controller,
    flood::{Flood, FloodHandle, Kind},
    netns::Namespace,
    programs::Program,
    server::{self, Server},
    topology::{Options, Topology},
};
use serde_json::Value;

use crate::harness::{
    CLIENT_PATIENCE, Counts, connect_in_flood, eventually,
    process::{self, Process, Scratch},
    start_always,
};

/// Runs `test` with the client's checksums whole and left to the hardware.
fn with_and_without_offload(test: impl Fn(&Topology) -> Result<()>) -> Result<()> {
    for checksum_offload in [true, false] {
        let options = Options { checksum_offload, client_end: Some(Program::Absorb), ..Options::default() };
        test(&Topology::with(&options)?).with_context(|| format!("offload: {checksum_offload}"))?;
    }
    Ok(())
}

/// The server's addresses with a port, one of each family.
fn both(bed: &Topology, port: u16) -> [SocketAddr; 2] {
    [bed.server_v4(port), bed.server_v6(port)]
}

/// Waits until something listens.
fn wait_listening(namespace: &Namespace, port: u16) -> Result<()> {
    eventually(&format!("something listens on port {port}"), || {
        let listeners = process::run(namespace, "ss", &format!("-Htln sport = :{port}"))?;
        Ok(!listeners.trim().is_empty())
    })
}

#[test]
fn a_web_server_serves_with_and_without_keep_alive() -> Result<()> {
    with_and_without_offload(|bed| {
        let scratch = Scratch::new()?;
        let big = vec![b'x'; 300_000];
        scratch.write("big", &big)?;
        let _nginx = process::start_nginx(&bed.server, &scratch)?;
        let defender = start_always(bed, &[80])?;
        for address in both(bed, 80) {
            let before = Counts::of(&defender)?;
            let alive = curl(&bed.client, &format!("http://{address}/hello?[1-100]"))?;
            assert_eq!(alive, Fetched { requests: 100, connections: 1, bytes: 600 });
            let each = curl(&bed.client, &format!("-H Connection:close http://{address}/hello?[1-50]"))?;
            assert_eq!(each, Fetched { requests: 50, connections: 50, bytes: 300 });
            let large = curl(&bed.client, &format!("-H Connection:close http://{address}/big?[1-4]"))?;
            assert_eq!(large, Fetched { requests: 4, connections: 4, bytes: 4 * big.len() as u64 });
            (&Counts::of(&defender)? - &before).assert_connections(55);
        }
        Ok(())
    })
}

/// What curl fetched.
#[derive(Debug, PartialEq, Eq)]
struct Fetched {
    requests: u64,
    connections: u64,
    bytes: u64,
}

/// Runs curl; every answer must be a 200.
fn curl(namespace: &Namespace, arguments: &str) -> Result<Fetched> {
    let options = "--silent --show-error --globoff --max-time 20 --output /dev/null";
    let format = "--write-out %{http_code},%{num_connects},%{size_download}\\n";
    // An IPv6 address has brackets of its own.
    let (address, range) = arguments.rsplit_once("?[1-").context("no range")?;
    let count: u64 = range.trim_end_matches(']').parse()?;
    let (more, url) = address.rsplit_once(' ').unwrap_or(("", address));
    let urls: Vec<String> = (0..count).map(|number| format!("--output /dev/null {url}?{number}")).collect();
    let text = process::run(namespace, "curl", &format!("{options} {format} {more} {}", urls.join(" ")))?;
    let mut fetched = Fetched { requests: 0, connections: 0, bytes: 0 };
    for line in text.lines() {
        let mut fields = line.split(',').map(|field| field.parse::<u64>().unwrap_or(u64::MAX));
        ensure!(fields.next() == Some(200), "curl got {line}");
        fetched.requests += 1;
        fetched.connections += fields.next().context("no connections")?;
        fetched.bytes += fields.next().context("no bytes")?;
    }
    Ok(fetched)
}

#[test]
fn sshd_speaks_first_and_exchanges_keys() -> Result<()> {
    with_and_without_offload(|bed| {
        let scratch = Scratch::new()?;
        let _sshd = process::start_sshd(&bed.server, &scratch)?;
        wait_listening(&bed.server, 22)?;
        let defender = start_always(bed, &[22])?;
        let before = Counts::of(&defender)?;
        for address in both(bed, 22) {
            for _ in 0..5 {
                let from = bed.fresh_client(address);
                let stream = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
                let banner = read_line(&stream)?;
                assert!(banner.starts_with("SSH-2.0-"), "{banner}");
            }
            let key = process::run(&bed.client, "ssh-keyscan", &format!("-t ed25519 {}", address.ip()))?;
            let public = fs::read_to_string(scratch.path("key.pub"))?;
            let public = public.split_whitespace().nth(1).context("no key")?;
            assert!(key.contains(public), "{key}");
        }
        (&Counts::of(&defender)? - &before).assert_connections(12);
        Ok(())
    })
}

fn read_line(stream: &TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

#[test]
fn a_dialogue_that_the_server_begins() -> Result<()> {
    with_and_without_offload(|bed| {
        for address in both(bed, 25) {
            let listener = bed.server.run(|| server::listen(address, server::Options::default()))?;
            let mail = bed.server.spawn("mail", move || serve_mail(&listener, 20))?;
            let defender = start_always(bed, &[25])?;
            let before = Counts::of(&defender)?;
            for number in 0..20 {
                let from = bed.fresh_client(address);
                let stream = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
                assert_eq!(read_line(&stream)?, "220 mail.example ESMTP\r\n");
                assert_eq!(ask(&stream, &format!("EHLO client{number}.example"))?, "250 welcome\r\n");
                assert_eq!(ask(&stream, "QUIT")?, "221 bye\r\n");
            }
            mail.join().expect("no panic")?;
            (&Counts::of(&defender)? - &before).assert_connections(20);
        }
        Ok(())
    })
}

fn serve_mail(listener: &TcpListener, connections: usize) -> Result<()> {
    listener.set_nonblocking(false)?;
    for stream in listener.incoming().take(connections) {
        let mut stream = stream?;
        stream.write_all(b"220 mail.example ESMTP\r\n")?;
        assert!(read_line(&stream)?.starts_with("EHLO "));
        stream.write_all(b"250 welcome\r\n")?;
        assert_eq!(read_line(&stream)?, "QUIT\r\n");
        stream.write_all(b"221 bye\r\n")?;
    }
    Ok(())
}

fn ask(mut stream: &TcpStream, line: &str) -> Result<String> {
    stream.write_all(format!("{line}\r\n").as_bytes())?;
    read_line(stream)
}

/// Drops that the flood's SYNs cause, besides being answered.
const FLOOD_DROPS: [&str; 1] = ["drop.syn_over_budget"];

/// A flood that lasts longer than what is done in it.
fn start_flood(bed: &Topology, target: SocketAddr) -> Result<FloodHandle<'_>> {
    let flood = Flood {
        rate: Some(40_000),
        max_packets: FLOOD_PACKETS,
        max_time: Duration::from_secs(60),
        ..Flood::new(Kind::LinuxSyn, target)
    };
    let flood = flood.start(bed)?;
    flood.wait_until_running()?;
    Ok(flood)
}

const FLOOD_PACKETS: u64 = 2_400_000;

#[test]
fn bulk_transfers_both_ways_begun_in_a_flood() -> Result<()> {
    with_and_without_offload(|bed| {
        for address in both(bed, 5201) {
            transfer_in_flood(bed, address).with_context(|| format!("to {address}"))?;
        }
        Ok(())
    })
}

/// iperf3 makes three connections: one for control, and one for data each way.
fn transfer_in_flood(bed: &Topology, address: SocketAddr) -> Result<()> {
    let (ip, port) = (address.ip(), address.port());
    let _server = Process::start(&bed.server, "iperf3", &format!("--server --bind {ip} --port {port}"))?;
    wait_listening(&bed.server, port)?;
    let defender = start_always(bed, &[port])?;
    let before = Counts::of(&defender)?;
    let flood = start_flood(bed, address)?;
    let arguments = format!("--client {ip} --port {port} --bidir --bytes 20M --json");
    let client = Process::start(&bed.client, "iperf3", &arguments)?;
    wait_handed_over(&defender, &before, 3)?;
    assert!(flood.sent()? < FLOOD_PACKETS, "the flood was over too early to show anything");
    let report: Value = serde_json::from_str(&client.wait()?)?;
    let flood = flood.stop()?;
    // It ends when one side has sent all: what is under way is not waited for.
    let sent = |sum: &str| report["end"][sum]["bytes"].as_u64().unwrap_or(0);
    assert!(sent("sum_sent").max(sent("sum_sent_bidir_reverse")) >= 20 << 20, "{report}");
    assert!(sent("sum_received").min(sent("sum_received_bidir_reverse")) > 1 << 20, "{report}");
    let counts = &Counts::of(&defender)? - &before;
    counts.assert_handed_over(3);
    // The server does not listen while it transfers.
    counts.assert_none_but("pass.syn_", &["pass.syn_no_listener"]);
    counts.assert_no_drops_but(&FLOOD_DROPS);
    assert!(counts.get("syn_received") > flood.sent / 10, "hardly anything arrived: {flood:?}\n{counts}");
    Ok(())
}

fn wait_handed_over(defender: &Controller<'_>, before: &Counts, connections: u64) -> Result<()> {
    eventually("connections are handed over in the flood", || {
        Ok((&Counts::of(defender)? - before).get("handoff_established") >= connections)
    })
}

#[test]
fn clients_connect_in_a_flood() -> Result<()> {
    with_and_without_offload(|bed| {
        for address in both(bed, 80) {
            let server = Server::start(&bed.server, address)?;
            let defender = start_always(bed, &[80])?;
            let before = Counts::of(&defender)?;
            let flood = start_flood(bed, address)?;
            let addresses: Vec<IpAddr> = connect_many(bed, address, 100)?;
            assert!(flood.sent()? < FLOOD_PACKETS, "the flood was over too early to show anything");
            flood.stop()?;
            let accepted = server.take_accepted();
            assert_eq!(accepted.iter().map(|one| one.peer.ip()).collect::<Vec<_>>(), addresses);
            assert!(accepted.iter().all(|one| one.info.has_all_options()), "{accepted:?}");
            let counts = &Counts::of(&defender)? - &before;
            counts.assert(&[("syn_passed", 0)]);
            counts.assert_handed_over(100);
            counts.assert_no_drops_but(&FLOOD_DROPS);
        }
        Ok(())
    })
}

/// Connects one after the other, and reads the greeting.
fn connect_many(bed: &Topology, address: SocketAddr, connections: usize) -> Result<Vec<IpAddr>> {
    let one = |_| {
        let from = bed.fresh_client(address);
        connect_in_flood(bed, from, address)?;
        Ok(from.ip())
    };
    (0..connections).map(one).collect()
}
