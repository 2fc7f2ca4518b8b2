//! A scripted TCP client. It sends what the test says, and acknowledges what arrives while it waits. It never retransmits:
//! what the server has, it got the first time.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_testbed::{
    capture::Capture,
    frame::{ParsedFrame, TcpFrame, flag, linux_options, timestamp_options, windows_options},
    inject::Injector,
    server::Server,
    topology::{CLIENT_INTERFACE, Topology},
};

use crate::harness::PATIENCE;

/// How long silence must last to count as silence. The server's kernel repeats a SYN-ACK after a second.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

/// How often, and for how long each time, a client tries during a flood. Enough to survive an overflowing ring; too few to
/// hide a server that answers only now and then.
const TRIES: u32 = 4;
const TRY: Duration = Duration::from_millis(500);

const SYN_ACK: u8 = flag::SYN | flag::ACK;
/// TSval of the client's first segment.
const FIRST_STAMP: u32 = 0x1234_5678;

/// Both layouts of a cookie: with timestamps, and without.
pub(crate) const KINDS: [ClientKind; 2] = [ClientKind::Linux, ClientKind::Windows];

/// What the client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    /// Timestamps, SACK, window scale.
    Linux,
    /// SACK and window scale, no timestamps.
    Windows,
}

/// The client's end of the link. Clients have addresses from the spoofed ranges, for which no kernel answers.
pub(crate) struct Wire<'a> {
    bed: &'a Topology,
    injector: RefCell<Injector<'a>>,
    next: Cell<u16>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(bed: &'a Topology) -> Result<Self> {
        let injector = RefCell::new(Injector::new(&bed.client, CLIENT_INTERFACE)?);
        Ok(Self { bed, injector, next: Cell::new(1) })
    }

    /// Sends frames so that the server's NAPI finds all of them in one poll.
    pub(crate) fn send(&self, frames: &[TcpFrame]) -> Result<()> {
        let frames: Vec<_> = frames.iter().map(TcpFrame::build).collect();
        self.injector.borrow_mut().send(&frames)
    }

    /// An address that no client had before.
    pub(crate) fn address(&self, like: SocketAddr) -> SocketAddr {
        let number = self.next.replace(self.next.get() + 1);
        let [high, low] = number.to_be_bytes();
        let address: IpAddr = match like {
            SocketAddr::V4(_) => Ipv4Addr::new(198, 19, high, low).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 1, number).into(),
        };
        SocketAddr::new(address, 20_000 + number)
    }

    /// A client that has not sent anything yet.
    pub(crate) fn client(&self, to: SocketAddr, kind: ClientKind) -> Result<ScriptedClient<'_, 'a>> {
        self.client_at(self.address(to), to, kind)
    }

    /// Like [`client`](Self::client), with a given address.
    pub(crate) fn client_at(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        kind: ClientKind,
    ) -> Result<ScriptedClient<'_, 'a>> {
        let capture = Capture::incoming(&self.bed.client, CLIENT_INTERFACE)?;
        let isn = 0x1000_0000 + u32::from(from.port()) * 0x1001;
        Ok(ScriptedClient {
            wire: self,
            capture,
            from,
            to,
            kind,
            isn,
            peer: None,
            clock: Cell::new(1),
            got: Got::default(),
        })
    }

    /// A client that has the SYN-ACK and owes the ACK.
    pub(crate) fn greeted(&self, to: SocketAddr, kind: ClientKind) -> Result<ScriptedClient<'_, 'a>> {
        let mut client = self.client(to, kind)?;
        client.greet()?;
        Ok(client)
    }

    /// A client that is connected, and has read the server's greeting.
    pub(crate) fn connected(&self, to: SocketAddr, kind: ClientKind) -> Result<ScriptedClient<'_, 'a>> {
        let mut client = self.greeted(to, kind)?;
        client.finish_handshake()?;
        Ok(client)
    }

    /// Ten clients complete their handshakes and send five segments each, all in one poll; waits until all data is echoed.
    pub(crate) fn mixed_burst(&self, servers: &[Server]) -> Result<()> {
        let client = |n: usize| self.greeted(servers[n / 2 % servers.len()].address(), KINDS[n % 2]);
        let mut clients = (0..10).map(client).collect::<Result<Vec<_>>>()?;
        let mut frames: Vec<TcpFrame> = clients.iter().map(ScriptedClient::ack).collect();
        for offset in (0..5 * 900).step_by(900) {
            frames.extend(clients.iter().map(|client| client.data(offset, &[7; 900])));
        }
        self.send(&frames)?;
        clients.iter_mut().try_for_each(|client| client.until_echoed(&[7; 5 * 900], 0, 0))
    }
}

/// What came from the server since the SYN-ACK.
#[derive(Default)]
pub(crate) struct Got {
    /// How many of the client's bytes are acknowledged, its FIN included.
    pub(crate) acknowledged: u32,
    /// What the server sent, up to the first gap.
    pub(crate) data: Vec<u8>,
    /// The server has ended its side.
    pub(crate) end: bool,
    /// The server has reset the connection.
    pub(crate) reset: bool,
    /// What follows the gap, and where the server's data ends.
    pieces: BTreeMap<u32, Vec<u8>>,
    end_at: Option<u32>,
}

/// The client.
pub(crate) struct ScriptedClient<'w, 'a> {
    wire: &'w Wire<'a>,
    capture: Capture,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) kind: ClientKind,
    /// Its initial sequence number.
    pub(crate) isn: u32,
    /// The SYN-ACK it got.
    peer: Option<ParsedFrame>,
    clock: Cell<u32>,
    pub(crate) got: Got,
}

impl ScriptedClient<'_, '_> {
    /// Its SYN.
    pub(crate) fn syn(&self) -> TcpFrame {
        let mss = if self.to.is_ipv4() { 1460 } else { 1440 };
        let options = match self.kind {
            ClientKind::Linux => linux_options(mss, self.tick(), 7),
            ClientKind::Windows => windows_options(mss, 8),
        };
        TcpFrame::new(self.from, self.to).flags(flag::SYN).seq(self.isn).options(&options)
    }

    /// The SYN-ACK it got.
    pub(crate) fn syn_ack(&self) -> &ParsedFrame {
        self.peer.as_ref().expect("a SYN-ACK came")
    }

    /// A segment `offset` bytes into the connection, with ACK.
    pub(crate) fn segment(&self, offset: u32) -> TcpFrame {
        let got = self.got.data.len() as u32 + u32::from(self.got.end);
        let peer = self.syn_ack();
        let frame = TcpFrame::new(self.from, self.to)
            .seq(self.isn.wrapping_add(1).wrapping_add(offset))
            .ack(peer.seq.wrapping_add(1).wrapping_add(got));
        match peer.options.timestamps {
            Some((stamp, _)) => frame.options(&timestamp_options(self.tick(), stamp)),
            None => frame,
        }
    }

    /// The ACK that ends the handshake, or acknowledges what came.
    pub(crate) fn ack(&self) -> TcpFrame {
        self.segment(self.got.acknowledged)
    }

    /// Data, `offset` bytes into the connection.
    pub(crate) fn data(&self, offset: u32, bytes: &[u8]) -> TcpFrame {
        self.segment(offset).payload(bytes)
    }

    /// The end of the client's side.
    pub(crate) fn fin(&self, offset: u32) -> TcpFrame {
        self.segment(offset).flags(flag::ACK | flag::FIN)
    }

    /// A RST as the client's kernel would send it now.
    pub(crate) fn rst(&self) -> TcpFrame {
        TcpFrame::new(self.from, self.to)
            .flags(flag::RST)
            .seq(self.isn.wrapping_add(1).wrapping_add(self.got.acknowledged))
    }

    /// Sends frames, all in one NAPI poll of the server.
    pub(crate) fn send(&self, frames: &[TcpFrame]) -> Result<()> {
        self.wire.send(frames)
    }

    /// Sends its SYN and takes the SYN-ACK.
    pub(crate) fn greet(&mut self) -> Result<()> {
        self.send(&[self.syn()])?;
        self.take_syn_ack()
    }

    /// Takes the SYN-ACK that is on its way.
    pub(crate) fn take_syn_ack(&mut self) -> Result<()> {
        let seen = self.expect("a SYN-ACK")?;
        ensure!(seen.is(SYN_ACK) && seen.ack == self.isn.wrapping_add(1), "no SYN-ACK to this SYN: {seen:?}");
        self.peer = Some(seen);
        self.got = Got::default();
        Ok(())
    }

    /// Takes the SYN-ACK that is on its way, and skips segments of the previous connection.
    pub(crate) fn until_syn_ack(&mut self) -> Result<()> {
        let own = self.isn.wrapping_add(1);
        let seen = self.capture.next_tcp(PATIENCE, |seen| {
            seen.destination == self.from && seen.flags & SYN_ACK == SYN_ACK && seen.ack == own
        })?;
        self.peer = Some(seen.context("no SYN-ACK")?);
        self.got = Got::default();
        Ok(())
    }

    /// Sends its ACK and waits for the server's greeting.
    pub(crate) fn finish_handshake(&mut self) -> Result<()> {
        self.send(&[self.ack()])?;
        self.until("the greeting", |got| got.data == b"+")
    }

    /// The next segment.
    pub(crate) fn expect(&self, what: &str) -> Result<ParsedFrame> {
        self.next(PATIENCE)?.with_context(|| format!("{} waited for {what}", self.from))
    }

    /// The next segment that is no retransmission. If this client is slow to acknowledge, a kernel repeats its SYN-ACK after
    /// a second, and data or a FIN after 200 ms.
    pub(crate) fn expect_besides_repeats(&self, what: &str) -> Result<ParsedFrame> {
        loop {
            let seen = self.expect(what)?;
            if !self.is_repeat(&seen) {
                return Ok(seen);
            }
        }
    }

    fn is_repeat(&self, seen: &ParsedFrame) -> bool {
        if seen.flags & flag::SYN != 0 {
            return seen.seq == self.syn_ack().seq;
        }
        let offset = seen.seq.wrapping_sub(self.syn_ack().seq.wrapping_add(1));
        let length = seen.payload.len() as u32 + u32::from(seen.flags & flag::FIN != 0);
        let got = self.got.data.len() as u32 + u32::from(self.got.end);
        length > 0 && offset.wrapping_add(length) <= got
    }

    /// Asserts that nothing arrives.
    pub(crate) fn expect_silence(&self) -> Result<()> {
        match self.next(QUIET)? {
            None => Ok(()),
            Some(seen) => bail!("{} got what nobody expected: {seen:?}", self.from),
        }
    }

    /// Takes in what the server sends, and acknowledges it, until `enough`.
    pub(crate) fn until(&mut self, what: &str, enough: impl Fn(&Got) -> bool) -> Result<()> {
        if !self.is_within(PATIENCE, enough)? {
            bail!("{} waited for {what}, and got {:?}", self.from, self.got);
        }
        Ok(())
    }

    /// The same, for so long at most.
    fn is_within(&mut self, time: Duration, enough: impl Fn(&Got) -> bool) -> Result<bool> {
        let deadline = Instant::now() + time;
        while !enough(&self.got) {
            let Some(seen) = self.next(deadline.saturating_duration_since(Instant::now()))? else {
                return Ok(false);
            };
            self.take(&seen)?;
        }
        Ok(true)
    }

    /// During a flood, which may push packets out: sends the ACK until the server's greeting arrives.
    pub(crate) fn insist_on_handshake(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            self.send(&[self.ack()])?;
            if self.is_within(TRY, |got| got.data == b"+")? {
                return Ok(());
            }
        }
        bail!("{} is not connected: {:?}", self.from, self.got)
    }

    /// The same for its SYN and the SYN-ACK.
    pub(crate) fn insist_on_greeting(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            self.send(&[self.syn()])?;
            let own = self.isn.wrapping_add(1);
            let answer = self
                .capture
                .next_tcp(TRY, |seen| seen.destination == self.from && seen.ack == own && seen.is(SYN_ACK))?;
            if answer.is_some() {
                (self.peer, self.got) = (answer, Got::default());
                return Ok(());
            }
        }
        bail!("{} gets no SYN-ACK", self.from)
    }

    /// Sends `first` and then data in pieces of 1000 bytes, all in one poll. Waits until all is echoed.
    pub(crate) fn burst(&mut self, first: &[TcpFrame], pieces: u32) -> Result<()> {
        let begin = self.got.acknowledged;
        let echoed = self.got.data.len();
        let bytes: Vec<u8> = (0..pieces * 1000).map(|at| (at % 251) as u8).collect();
        let mut frames = first.to_vec();
        for (at, piece) in bytes.chunks(1000).enumerate() {
            frames.push(self.data(begin + at as u32 * 1000, piece));
        }
        // As TCP does: the last piece has PSH.
        if let Some(last) = frames.pop() {
            frames.push(last.flags(flag::ACK | flag::PSH));
        }
        self.send(&frames)?;
        self.until_echoed(&bytes, begin, echoed)
    }

    /// Waits until `bytes`, which began at `begin`, are acknowledged and have come back.
    pub(crate) fn until_echoed(&mut self, bytes: &[u8], begin: u32, echoed: usize) -> Result<()> {
        let all = begin + bytes.len() as u32;
        // A greeting may come before the echo.
        let greeting = usize::from(echoed == 0);
        self.until("its bytes to be acknowledged", |got| got.acknowledged >= all)?;
        self.until("its bytes to come back", |got| got.data.len() >= echoed + greeting + bytes.len())?;
        ensure!(self.got.data.ends_with(bytes), "what came back is not what was sent");
        ensure!(self.got.acknowledged == all, "more was acknowledged than sent");
        Ok(())
    }

    /// Shows that the connection is alive: data is echoed.
    pub(crate) fn talk(&mut self) -> Result<()> {
        self.burst(&[], 1)
    }

    /// Ends the connection from this side.
    pub(crate) fn close(&mut self) -> Result<()> {
        let all = self.got.acknowledged;
        self.send(&[self.fin(all)])?;
        self.until("the end", |got| got.end && got.acknowledged == all + 1)
    }

    fn next(&self, timeout: Duration) -> Result<Option<ParsedFrame>> {
        self.capture.next_tcp(timeout, |seen| seen.destination == self.from && seen.source == self.to)
    }

    fn take(&mut self, seen: &ParsedFrame) -> Result<()> {
        self.got.reset |= seen.flags & flag::RST != 0;
        if seen.flags & (flag::ACK | flag::SYN | flag::RST) != flag::ACK {
            return Ok(());
        }
        let acknowledged = seen.ack.wrapping_sub(self.isn.wrapping_add(1));
        self.got.acknowledged = self.got.acknowledged.max(acknowledged);
        let offset = seen.seq.wrapping_sub(self.syn_ack().seq.wrapping_add(1));
        if let (Some((first, _)), Some((stamp, _))) =
            (self.syn_ack().options.timestamps, seen.options.timestamps)
        {
            // Otherwise a client takes it for an old duplicate (RFC 7323, section 5.3).
            ensure!(stamp.wrapping_sub(first) as i32 >= 0, "the server's clock went back: {first}, {stamp}");
        }
        let last = seen.flags & flag::FIN != 0;
        self.got.take(offset, &seen.payload, last);
        if last || !seen.payload.is_empty() {
            // Without the injector: this packet need not share a poll with others.
            self.capture.send(self.ack().build())?;
        }
        Ok(())
    }

    /// The client's clock: a millisecond for each segment it makes.
    fn tick(&self) -> u32 {
        self.clock.set(self.clock.get() + 1);
        FIRST_STAMP + self.clock.get()
    }
}

impl fmt::Debug for Got {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, data, end, reset, .. } = self;
        write!(formatter, "{acknowledged} acknowledged, {} bytes, end {end}, reset {reset}", data.len())
    }
}

impl Got {
    fn take(&mut self, offset: u32, piece: &[u8], last: bool) {
        if last {
            self.end_at = Some(offset + piece.len() as u32);
        }
        self.pieces.insert(offset, piece.to_vec());
        while let Some((at, piece)) = self.pieces.pop_first() {
            let have = self.data.len() as u32;
            if at > have {
                self.pieces.insert(at, piece);
                break;
            }
            self.data.extend(piece.iter().skip((have - at) as usize));
        }
        self.end = self.end_at == Some(self.data.len() as u32);
    }
}
