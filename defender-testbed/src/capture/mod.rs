//! Watching and sending whole frames on an interface.

mod filter;
mod socket;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    frame::ParsedFrame,
    interface,
    netns::{self, Namespace},
};
use socket::PacketSocket;

/// Longest frame that is captured whole, in bytes.
const ROOM: usize = 65_600;

/// Of frames without much in them, so many bytes are enough.
const SMALL_ROOM: usize = 256;

/// A frame as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The frame, Ethernet header first; VLAN tags are where they were on the wire.
    pub bytes: Vec<u8>,
    /// It was sent by this interface rather than received.
    pub outgoing: bool,
    /// The TCP checksum was left to the hardware: the bytes hold only the pseudo-header's sum.
    pub checksum_pending: bool,
}

impl Captured {
    /// The TCP segment in it, if it is one.
    pub fn tcp(&self) -> Option<ParsedFrame> {
        ParsedFrame::parse(&self.bytes)
    }
}

/// Frames of one interface, from the moment it was opened. What an XDP program drops or sends back is not seen: it sits
/// in front.
#[derive(Debug)]
pub struct Capture {
    receiver: PacketSocket,
    sender: PacketSocket,
    room: usize,
}

impl Capture {
    /// Watches what the interface of the namespace receives.
    pub fn incoming(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open(namespace, interface, ROOM, |ifindex| PacketSocket::receiver(ifindex, false))
    }

    /// Watches what the interface of the namespace receives and sends.
    pub fn both_ways(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open(namespace, interface, ROOM, |ifindex| PacketSocket::receiver(ifindex, true))
    }

    /// Watches what the interface of the namespace receives for one network, given by an address in it and the length of
    /// its prefix in bits. Everything else costs next to nothing; long frames are cut off.
    pub fn to_network(namespace: &Namespace, interface: &str, network: IpAddr, bits: u8) -> Result<Self> {
        let filter = filter::destination(network, bits);
        Self::open(namespace, interface, SMALL_ROOM, |ifindex| {
            PacketSocket::filtered_receiver(ifindex, false, &filter)
        })
    }

    fn open(
        namespace: &Namespace,
        interface: &str,
        room: usize,
        receiver: impl FnOnce(u32) -> std::io::Result<PacketSocket> + Send,
    ) -> Result<Self> {
        let ifindex = interface::index(namespace, interface)?;
        namespace
            .run(|| {
                netns::ensure_inside_own()?;
                Ok(Self { receiver: receiver(ifindex)?, sender: PacketSocket::sender(ifindex)?, room })
            })
            .with_context(|| format!("cannot capture on {interface}"))
    }

    /// Sends a frame out of the interface, as it is.
    pub fn send(&self, frame: impl AsRef<[u8]>) -> Result<()> {
        self.sender.send(frame.as_ref(), None).context("cannot send a frame")
    }

    /// Sends a frame with its TCP checksum left to the hardware, as a local network stack does. The field should hold
    /// the pseudo-header's sum. `tcp` is where the TCP header begins, in bytes.
    pub fn send_partial(&self, frame: impl AsRef<[u8]>, tcp: usize) -> Result<()> {
        self.sender.send(frame.as_ref(), Some(tcp)).context("cannot send a frame")
    }

    /// The next frame that comes before the timeout.
    pub fn next(&self, timeout: Duration) -> Result<Option<Captured>> {
        self.receiver.receive(self.room, timeout).context("cannot capture")
    }

    /// The next TCP segment that `wanted` accepts and that comes before the timeout; others are skipped.
    pub fn next_tcp(
        &self,
        timeout: Duration,
        wanted: impl Fn(&ParsedFrame) -> bool,
    ) -> Result<Option<ParsedFrame>> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(frame) = self.next(left)? else { return Ok(None) };
            if let Some(seen) = frame.tcp().filter(|seen| wanted(seen)) {
                return Ok(Some(seen));
            }
        }
    }

    /// Everything that comes until nothing came for `quiet`.
    pub fn until_quiet(&self, quiet: Duration) -> Result<Vec<Captured>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next(quiet)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Every TCP segment that comes until nothing came for `quiet`.
    pub fn tcp_until_quiet(&self, quiet: Duration) -> Result<Vec<ParsedFrame>> {
        Ok(self.until_quiet(quiet)?.iter().filter_map(Captured::tcp).collect())
    }

    /// Throws away what came so far.
    pub fn clear(&self) -> Result<()> {
        self.until_quiet(Duration::ZERO).map(drop)
    }
}
