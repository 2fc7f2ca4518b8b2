//! Connections with constant traffic, and controllers that take over.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    client,
    controller::Controller,
    server::{self, Server},
    topology::{SERVER_INTERFACE, Topology},
};

use crate::harness::{CLIENT_PATIENCE, PATIENCE, PROGRAM, eventually, kernel::read_exactly};

const CHUNK: usize = 4000;

/// Connections on which data is sent and echoed all the time.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// Connects to each server and begins to send.
    pub(crate) fn start(bed: &Topology, servers: &[Server]) -> Result<Self> {
        Self::to(bed, &servers.iter().map(Server::address).collect::<Vec<_>>())
    }

    /// The same, to servers at these addresses.
    pub(crate) fn to(bed: &Topology, addresses: &[SocketAddr]) -> Result<Self> {
        let mut traffic = Self { stop: Arc::default(), rounds: Arc::default(), threads: Vec::new() };
        for address in addresses {
            let from = bed.fresh_client(*address);
            let stream = client::connect_from(&bed.client, Some(from), *address, CLIENT_PATIENCE)?;
            let (stop, rounds) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.rounds));
            traffic.threads.push(thread::spawn(move || exchange(stream, &stop, &rounds)));
        }
        traffic.flows()?;
        Ok(traffic)
    }

    /// Waits for a few more round trips of data.
    pub(crate) fn flows(&self) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + 20 * self.threads.len() as u64;
        eventually("data flows", || {
            let broken = self.threads.iter().any(JoinHandle::is_finished);
            ensure!(!broken, "a connection was cut");
            Ok(self.rounds.load(Ordering::Relaxed) >= goal)
        })
    }

    /// Stops; every connection must be whole.
    pub(crate) fn end(self) -> Result<()> {
        self.flows()?;
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic").context("a connection was cut")?;
        }
        Ok(())
    }
}

fn exchange(mut stream: TcpStream, stop: &AtomicBool, rounds: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    read_exactly(&mut stream, &[server::GREETING])?;
    let mut chunk = [0; CHUNK];
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        chunk.fill(round as u8);
        stream.write_all(&chunk)?;
        read_exactly(&mut stream, &chunk)?;
        rounds.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub(crate) fn take_over<'a>(bed: &'a Topology, first: &Controller<'_>) -> Result<Controller<'a>> {
    take_over_with(bed, first, &[])
}

/// Starts another controller with the first one's pin root, and waits until it is in control.
pub(crate) fn take_over_with<'a>(
    bed: &'a Topology,
    first: &Controller<'_>,
    arguments: &[&str],
) -> Result<Controller<'a>> {
    let pins = first.pin_root().to_owned();
    let second = Controller::start_at(&bed.server, PROGRAM.as_ref(), SERVER_INTERFACE, arguments, pins)?;
    let own = u64::from(second.id());
    eventually("the second controller has taken over", || {
        Ok(crate::harness::status(&second)?["controller"].as_u64() == Some(own))
    })?;
    Ok(second)
}
