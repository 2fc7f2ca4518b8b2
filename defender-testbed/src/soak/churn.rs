//! What goes on around the defender.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use defender_testbed::{
    client::Load,
    flood::{Flood, Kind, Range},
    server::Server,
    topology::Topology,
};
use nix::errno::Errno;

/// Clients a second, of one family at a time.
const CLIENTS: f64 = 50.0;
/// How long they may take: longer than a SYN that gets lost in a flood takes to be sent twice more.
const PATIENCE: Duration = Duration::from_secs(15);
/// SYNs a second of a flood, and how long it lasts and pauses.
const FLOOD: u64 = 20_000;
const FLOOD_SECONDS: u64 = 8;
const PAUSE: Duration = Duration::from_secs(22);
/// The port of the listener that restarts.
const RESTARTING: u16 = 8080;
const RESTART: Duration = Duration::from_millis(500);
/// How long its address may be in use after the last one was closed.
const FREE_AGAIN: Duration = Duration::from_secs(10);

/// Clients, floods and restarts, and how often each happened.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    ended: AtomicBool,
    served: AtomicU64,
    failed: AtomicU64,
    floods: AtomicU64,
    restarts: AtomicU64,
}

impl Churn {
    /// Starts all of it.
    pub(crate) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        bed: &'scope Topology,
        addresses: [SocketAddr; 2],
    ) -> [ScopedJoinHandle<'scope, Result<()>>; 3] {
        [
            scope.spawn(move || self.clients_come(bed, addresses)),
            scope.spawn(move || self.floods_come(bed, addresses)),
            scope.spawn(move || self.listeners_restart(bed)),
        ]
    }

    /// Has all of it end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Clients that were greeted.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Clients that were not.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Floods that began.
    pub(crate) fn floods(&self) -> u64 {
        self.floods.load(Relaxed)
    }

    /// Listeners that went and came again.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Relaxed)
    }

    fn clients_come(&self, bed: &Topology, addresses: [SocketAddr; 2]) -> Result<()> {
        for address in addresses.into_iter().cycle() {
            if !self.goes_on() {
                break;
            }
            let load = Load { deadline: PATIENCE, ..Load::new(bed, address) };
            let report = load.with(bed, CLIENTS, Duration::from_secs(1)).run(&bed.client)?;
            let (refused, timed_out) = report.failed();
            self.failed.fetch_add((refused + timed_out) as u64, Relaxed);
            self.served.fetch_add((report.clients.len() - refused - timed_out) as u64, Relaxed);
        }
        Ok(())
    }

    fn floods_come(&self, bed: &Topology, addresses: [SocketAddr; 2]) -> Result<()> {
        for address in addresses.into_iter().cycle() {
            self.wait(PAUSE);
            if !self.goes_on() {
                break;
            }
            flood(address).run_to_end(bed)?;
            self.floods.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn listeners_restart(&self, bed: &Topology) -> Result<()> {
        while self.goes_on() {
            let address = SocketAddr::from(([0, 0, 0, 0], RESTARTING));
            let server = listen_again(bed, address)?;
            self.wait(RESTART);
            drop(server);
            self.restarts.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Waits that long, or until all is to end.
    fn wait(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.goes_on() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Listens. Another thread may be starting a process, which has a copy of the last listener until it runs its program: then
/// the address is in use for a moment.
fn listen_again(bed: &Topology, address: SocketAddr) -> Result<Server> {
    let deadline = Instant::now() + FREE_AGAIN;
    loop {
        match Server::start(&bed.server, address) {
            Err(error) if error.downcast_ref() == Some(&Errno::EADDRINUSE) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn flood(target: SocketAddr) -> Flood {
    let flood = Flood::new(Kind::LinuxSyn, target);
    let source = if target.is_ipv4() { Range::V4([198, 18, 0, 0].into(), 16) } else { flood.source };
    Flood {
        source,
        rate: Some(FLOOD),
        max_time: Duration::from_secs(FLOOD_SECONDS),
        max_packets: FLOOD * FLOOD_SECONDS,
        ..flood
    }
}
