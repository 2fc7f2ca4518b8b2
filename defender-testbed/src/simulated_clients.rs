//! Many clients that look real and have no sockets.
//!
//! Each sends a SYN from an address of its own, from a part of the spoofed ranges that floods leave alone. It answers the
//! SYN-ACK after a given round trip, like a distant client. It reads the server's greeting and leaves with a RST, so nothing
//! of it remains. It retransmits what is lost, as any TCP does.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    capture::{Capture, Captured},
    frame::{ParsedFrame, TcpFrame, flag, timestamp_options},
    server::GREETING,
    topology::{CLIENT_INTERFACE, Topology},
};

/// Clients at most.
pub const MAX_CLIENTS: u32 = 60_000;

/// Time at most.
pub const MAX_TIME: Duration = Duration::from_secs(60);

/// When a client retransmits.
const RETRY: Duration = Duration::from_secs(1);

/// How often it retransmits.
const RETRIES: u8 = 4;

const SYN_ACK: u8 = flag::SYN | flag::ACK;

/// Clients' ports; the addresses tell them apart.
const FIRST_PORT: u16 = 40_000;

/// How many addresses the range has.
const ADDRESSES: u32 = 1 << 16;

/// Orders for simulated clients. Begin with [`SimulatedClients::new`].
#[derive(Clone, Copy, Debug)]
pub struct SimulatedClients {
    /// The server, which must send [`GREETING`].
    pub target: SocketAddr,
    /// How many connect; never more than [`MAX_CLIENTS`].
    pub clients: u32,
    /// How many connect in a second.
    pub rate: u32,
    /// The time from the SYN-ACK's arrival to the ACK.
    pub round_trip: Duration,
    /// How many handshakes may be in progress at once; further clients connect later. So a machine that pauses does not cause
    /// a burst.
    pub at_once: u32,
    /// Number of the first client; see [`Topology::fresh_clients`].
    pub first: u32,
}

/// What the clients saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulationReport {
    /// SYNs sent, repeated ones included.
    pub syns: u32,
    /// SYN-ACKs that came, repeated ones included.
    pub syn_acks: u32,
    /// Clients that read the server's greeting.
    pub completed: u32,
    /// Clients whose connection was reset.
    pub reset: u32,
}

impl SimulatedClients {
    /// A thousand clients in a second, 100 ms away, from addresses that nobody had before.
    pub fn new(bed: &Topology, target: SocketAddr) -> Self {
        let round_trip = Duration::from_millis(100);
        let nobody = Self { target, clients: 0, rate: 1, round_trip, at_once: u32::MAX, first: 0 };
        nobody.of(bed, 1000, 1000)
    }

    /// So many clients, so many a second, from addresses that nobody had before.
    #[must_use]
    pub fn of(self, bed: &Topology, clients: u32, rate: u32) -> Self {
        Self { clients, rate, first: bed.fresh_clients(clients), ..self }
    }

    /// Connects them, and waits for the last one. The client end must let answers to them pass:
    /// [`Pass`](crate::programs::Program::Pass) or [`AbsorbFlood`](crate::programs::Program::AbsorbFlood).
    pub fn run(&self, bed: &Topology) -> Result<SimulationReport> {
        ensure!(self.clients <= MAX_CLIENTS, "a crowd has at most {MAX_CLIENTS} clients");
        ensure!(self.rate > 0, "at least one client comes in a second");
        ensure!(self.begin_at(self.clients) <= MAX_TIME, "a crowd comes within {} s", MAX_TIME.as_secs());
        let (network, bits) = match self.target {
            SocketAddr::V4(_) => (self.address(0).ip(), 16),
            SocketAddr::V6(_) => (self.address(0).ip(), 96),
        };
        let capture = Capture::to_network(&bed.client, CLIENT_INTERFACE, network, bits)?;
        let clients = vec![Client::default(); self.clients as usize];
        Gathering {
            crowd: *self,
            capture,
            clients,
            started: Instant::now(),
            begun: 0,
            left: self.clients,
            acks: VecDeque::new(),
            retries: VecDeque::new(),
            report: SimulationReport::default(),
        }
        .run()
    }

    /// When the client with this number begins.
    fn begin_at(&self, number: u32) -> Duration {
        Duration::from_secs_f64(f64::from(number) / f64::from(self.rate))
    }

    fn address(&self, number: u32) -> SocketAddr {
        let number = self.first.wrapping_add(number);
        let [.., high, low] = number.to_be_bytes();
        let address: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::new(198, 19, high, low).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 2, number as u16).into(),
        };
        SocketAddr::new(address, FIRST_PORT + (number / ADDRESSES) as u16)
    }

    /// Whose address this is.
    fn number(&self, address: SocketAddr) -> Option<u32> {
        let host = match address.ip() {
            IpAddr::V4(address) => u32::from(address) as u16,
            IpAddr::V6(address) => u128::from(address) as u16,
        };
        let turn = u32::from(address.port().checked_sub(FIRST_PORT)?);
        let number = (turn * ADDRESSES + u32::from(host)).wrapping_sub(self.first);
        (number < self.clients && self.address(number) == address).then_some(number)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Client {
    /// The server's sequence number and timestamp, once it has answered.
    peer: Option<(u32, Option<u32>)>,
    tries: u8,
    is_done: bool,
}

/// A simulation in progress.
struct Gathering {
    crowd: SimulatedClients,
    capture: Capture,
    clients: Vec<Client>,
    started: Instant,
    begun: u32,
    left: u32,
    /// When each ACK is due; in order, since all have the same round trip.
    acks: VecDeque<(Instant, u32)>,
    /// When each client checks whether to retransmit.
    retries: VecDeque<(Instant, u32)>,
    report: SimulationReport,
}

impl Gathering {
    fn run(mut self) -> Result<SimulationReport> {
        let end = self.started + MAX_TIME * 2;
        while self.left != 0 && Instant::now() < end {
            // First what has arrived: after a pause of the machine nobody retransmits what was answered.
            while let Some(frame) = self.capture.next(Duration::ZERO)? {
                self.take_frame(&frame)?;
            }
            self.send_due()?;
            let mut wait = self.next_due().saturating_duration_since(Instant::now());
            while let Some(frame) = self.capture.next(wait)? {
                self.take_frame(&frame)?;
                wait = Duration::ZERO;
                if self.next_due() <= Instant::now() {
                    break;
                }
            }
        }
        Ok(self.report)
    }

    fn take_frame(&mut self, frame: &Captured) -> Result<()> {
        frame.tcp().map_or(Ok(()), |seen| self.take(&seen))
    }

    fn next_begin(&self) -> Option<Instant> {
        let under_way = self.begun - (self.crowd.clients - self.left);
        let may_begin = self.begun < self.crowd.clients && under_way < self.crowd.at_once;
        may_begin.then(|| self.started + self.crowd.begin_at(self.begun))
    }

    fn next_due(&self) -> Instant {
        let acks = self.acks.front().map(|(at, _)| *at);
        let retries = self.retries.front().map(|(at, _)| *at);
        let next = [self.next_begin(), acks, retries].into_iter().flatten().min();
        next.unwrap_or_else(|| Instant::now() + RETRY)
    }

    fn send_due(&mut self) -> Result<()> {
        while self.next_begin().is_some_and(|at| at <= Instant::now()) {
            let number = self.begun;
            self.begun += 1;
            self.send_syn(number)?;
        }
        while let Some((_, number)) = self.acks.pop_front_if(|(at, _)| *at <= Instant::now()) {
            self.send_ack(number, b"")?;
        }
        while let Some((_, number)) = self.retries.pop_front_if(|(at, _)| *at <= Instant::now()) {
            self.try_again(number)?;
        }
        Ok(())
    }

    fn send_syn(&mut self, number: u32) -> Result<()> {
        let frame = TcpFrame::linux_syn(self.crowd.address(number), self.crowd.target, isn(number));
        self.capture.send(frame.build())?;
        self.report.syns += 1;
        self.retries.push_back((Instant::now() + RETRY, number));
        Ok(())
    }

    fn send_ack(&self, number: u32, data: &[u8]) -> Result<()> {
        let client = self.clients[number as usize];
        let Some((peer, stamp)) = client.peer.filter(|_| !client.is_done) else { return Ok(()) };
        let frame = TcpFrame::new(self.crowd.address(number), self.crowd.target)
            .seq(isn(number).wrapping_add(1))
            .ack(peer.wrapping_add(1))
            .payload(data);
        let frame = match stamp {
            Some(stamp) => frame.options(&timestamp_options(0x1234_5679, stamp)),
            None => frame,
        };
        self.capture.send(frame.build())
    }

    /// Nothing came: the SYN goes out again or, in place of an ACK that may be lost, a byte.
    fn try_again(&mut self, number: u32) -> Result<()> {
        let client = &mut self.clients[number as usize];
        if client.is_done {
            return Ok(());
        }
        client.tries += 1;
        if client.tries > RETRIES {
            self.ends(number);
            return Ok(());
        }
        if client.peer.is_none() {
            return self.send_syn(number);
        }
        self.send_ack(number, b"?")?;
        self.retries.push_back((Instant::now() + RETRY, number));
        Ok(())
    }

    fn take(&mut self, seen: &ParsedFrame) -> Result<()> {
        let Some(number) = self.crowd.number(seen.destination) else { return Ok(()) };
        let client = &mut self.clients[number as usize];
        if seen.source != self.crowd.target {
            return Ok(());
        }
        if seen.flags & SYN_ACK == SYN_ACK {
            self.report.syn_acks += 1;
            if !client.is_done && seen.ack == isn(number).wrapping_add(1) {
                client.peer = Some((seen.seq, seen.options.timestamps.map(|(stamp, _)| stamp)));
                self.acks.push_back((Instant::now() + self.crowd.round_trip, number));
            }
        } else if seen.flags & flag::RST != 0 {
            self.report.reset += u32::from(self.ends(number));
        } else if seen.payload.first() == Some(&GREETING) && self.ends(number) {
            self.report.completed += 1;
            // At the number that the server expects. Another one would belong to no connection.
            let rst = TcpFrame::new(self.crowd.address(number), self.crowd.target);
            self.capture.send(rst.flags(flag::RST).seq(seen.ack).build())?;
        }
        Ok(())
    }

    /// Marks a client as done; false if it was already.
    fn ends(&mut self, number: u32) -> bool {
        let client = &mut self.clients[number as usize];
        if client.is_done {
            return false;
        }
        client.is_done = true;
        self.left -= 1;
        true
    }
}

/// The first sequence number of a client.
fn isn(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_numbers_go_together() {
        for target in ["10.203.0.2:80", "[2001:db8:0:1::2]:80"] {
            let target = target.parse().unwrap();
            let crowd = SimulatedClients {
                target,
                clients: 60_000,
                rate: 1,
                round_trip: Duration::ZERO,
                at_once: 1,
                first: 123_456,
            };
            for number in [0, 1, 2, 7623, 7624, 59_999] {
                assert_eq!(crowd.number(crowd.address(number)), Some(number));
            }
            let other = SimulatedClients { first: 0, ..crowd };
            assert_eq!(crowd.number(other.address(0)), None);
        }
    }
}
