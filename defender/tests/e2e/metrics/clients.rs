//! Clients that are slow, many, or want something else.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Result, ensure};
use defender_testbed::{http, topology::Topology};

use super::bed::{METRICS, Scene};
use crate::harness::{PATIENCE, eventually};

/// More than are served at once.
const MANY: usize = 200;
/// How many descriptors they may cost: those that are served, and what else the process opens meanwhile.
const MOST_DESCRIPTORS: usize = 60;

fn open(bed: &Topology) -> Result<TcpStream> {
    let stream = bed.server.run(|| Ok(TcpStream::connect_timeout(&METRICS, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The descriptors of the process, which keeps maps open from its first scrape on.
fn descriptors(scene: &Scene<'_>) -> Result<usize> {
    ensure!(scene.get("/metrics")?.status == 200);
    Ok(std::fs::read_dir(format!("/proc/{}/fd", scene.defender.id()))?.count())
}

#[test]
fn other_pages_and_methods_are_refused() -> Result<()> {
    let bed = Topology::new()?;
    let _scene = Scene::new(&bed, "monitor")?;
    for (method, path, status) in [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/healthz", 405),
        ("DELETE", "/readyz", 405),
    ] {
        let answer = http::request(&bed.server, METRICS, method, path, "")?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.body.is_empty(), method == "HEAD", "{method} {path}: {answer:?}");
    }
    Ok(())
}

/// Clients that never say what they want keep nobody from being served, and are not kept for long.
#[test]
fn slow_clients_are_bounded_and_in_nobodys_way() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, "monitor")?;
    let before = descriptors(&scene)?;
    let mut slow = Vec::new();
    for number in 0..MANY {
        let mut stream = open(&bed)?;
        // Each a little further in its request; those that were sent away do not take it.
        let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "[..number % 40]);
        slow.push(stream);
        if number % 50 == 49 {
            ensure!(scene.get("/metrics")?.status == 200);
        }
    }
    let during = descriptors(&scene)?;
    ensure!(during < before + MOST_DESCRIPTORS, "{before} descriptors before, {during} with {MANY} clients");
    // They go on to send a byte now and then, as slowloris does.
    eventually("slow clients are sent away", || {
        ensure!(scene.get("/healthz")?.status == 200);
        slow.retain_mut(|stream| {
            let _ = stream.set_nonblocking(true);
            let is_open = !matches!(stream.read(&mut [0; 4096]), Ok(0)) && stream.write_all(b"x").is_ok();
            std::thread::sleep(Duration::from_millis(1));
            is_open
        });
        Ok(slow.is_empty())
    })?;
    eventually("their descriptors are closed", || Ok(descriptors(&scene)? <= before + 4))?;
    ensure!(scene.get("/metrics")?.status == 200);
    ensure!(scene.scrape()?.get("defender_ready") == 1.0);
    Ok(())
}

/// Who does not take the page that was asked for is not waited for.
#[test]
fn a_client_that_does_not_read_is_left() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, "monitor")?;
    let before = descriptors(&scene)?;
    let mut deaf = Vec::new();
    for _ in 0..MANY {
        let mut stream = open(&bed)?;
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        deaf.push(stream);
    }
    ensure!(scene.get("/metrics")?.status == 200);
    eventually("their descriptors are closed", || Ok(descriptors(&scene)? <= before + 4))?;
    drop(deaf);
    Ok(())
}

/// What is no HTTP costs a connection and nothing else.
#[test]
fn what_makes_no_sense_is_refused() -> Result<()> {
    let bed = Topology::new()?;
    let scene = Scene::new(&bed, "monitor")?;
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        &[0; 100_000],
        &[b'A'; 1 << 20],
    ] {
        let mut stream = open(&bed)?;
        let _ = stream.write_all(nonsense);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    ensure!(scene.get("/metrics")?.status == 200);
    Ok(())
}
