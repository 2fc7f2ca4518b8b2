//! Rows, and how they are checked.

use std::{thread, time::Duration};

use anyhow::Result;
use defender_common::{
    abi::{self, Config, Service, ServiceCounters, TriggerLimits},
    clock,
    verdict::Reason,
};
use defender_testbed::frame::{ParsedFrame, TcpFrame, flag, timestamp_options};

use super::{
    bed::{Bed, Ran},
    expected::{NegotiatedOptions, handed_over, mark, offset, syn_ack, timestamp_bits},
    world::World,
};

/// How long the test may take from the reply to reading the clock.
const SLOW_MACHINE_MS: u32 = 60_000;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// One frame and what becomes of it.
#[derive(Clone)]
pub(super) struct Row {
    what: String,
    world: World,
    before: Vec<Vec<u8>>,
    frame: Vec<u8>,
    linear: Option<usize>,
    out_of_state: OutOfState,
    /// A cookie that it proves counts as a connection that the kernel must make.
    certain: bool,
    pub(super) expected: Expected,
}

/// As what a frame counts that is of no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutOfState {
    Nothing,
    Ack,
    Rst,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expected {
    /// It passes unchanged.
    Pass(Reason),
    /// It is dropped.
    Drop(Reason),
    /// It becomes the SYN-ACK with these options; the acknowledgement of that is then accepted.
    Challenge(NegotiatedOptions),
    /// It passes marked, and is handed over with these options.
    Cookie(NegotiatedOptions),
}

impl Expected {
    /// The counter that moves.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) => reason,
            Self::Challenge(_) => Reason::SynChallenged,
            Self::Cookie(_) => Reason::Cookie,
        }
    }

    fn action(self) -> u32 {
        match self {
            Self::Pass(_) | Self::Cookie(_) => XDP_PASS,
            Self::Drop(_) => XDP_DROP,
            Self::Challenge(_) => XDP_TX,
        }
    }
}

/// What can be a row's frame.
pub(super) trait Frame {
    fn bytes(self) -> Vec<u8>;
}

impl Frame for TcpFrame {
    fn bytes(self) -> Vec<u8> {
        self.build()
    }
}

impl Frame for Vec<u8> {
    fn bytes(self) -> Vec<u8> {
        self
    }
}

/// Begins a row: its description and its frame. In the end says what is expected.
pub(super) fn row(what: impl Into<String>, frame: impl Frame) -> Row {
    Row {
        what: what.into(),
        world: World::default(),
        before: Vec::new(),
        frame: frame.bytes(),
        linear: None,
        out_of_state: OutOfState::Nothing,
        certain: true,
        expected: Expected::Pass(Reason::NotIp),
    }
}

impl Row {
    /// Changes the world.
    pub(super) fn world(mut self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.world);
        self
    }

    /// A frame that comes first.
    pub(super) fn after(mut self, frame: impl Frame) -> Self {
        self.before.push(frame.bytes());
        self
    }

    /// Only so many bytes of the frame are in one piece. Needs kernel 6.18.
    pub(super) fn linear(mut self, bytes: usize) -> Self {
        self.linear = Some(bytes);
        self
    }

    /// The same frame in another world.
    pub(super) fn also(&self, what: &str, change: impl FnOnce(&mut World)) -> Self {
        let mut other = self.clone();
        other.what = format!("{}, {what}", self.what);
        change(&mut other.world);
        other
    }

    /// It counts as one of a flood's acknowledgements.
    pub(super) fn stray(mut self) -> Self {
        self.out_of_state = OutOfState::Ack;
        self
    }

    /// It counts as one of a flood's resets.
    pub(super) fn stray_rst(mut self) -> Self {
        self.out_of_state = OutOfState::Rst;
        self
    }

    /// It proves nothing new, or the kernel may drop it for what cannot be seen at the NIC.
    pub(super) fn uncertain(mut self) -> Self {
        self.certain = false;
        self
    }

    pub(super) fn passes(mut self, reason: Reason) -> Self {
        self.expected = Expected::Pass(reason);
        self
    }

    pub(super) fn dropped(mut self, reason: Reason) -> Self {
        self.expected = Expected::Drop(reason);
        self
    }

    pub(super) fn challenged(mut self, negotiated: NegotiatedOptions) -> Self {
        self.expected = Expected::Challenge(negotiated);
        self
    }

    pub(super) fn proves(mut self, negotiated: NegotiatedOptions) -> Self {
        self.expected = Expected::Cookie(negotiated);
        self
    }
}

/// Checks rows on a bed of their own.
pub(super) fn check(rows: &[Row]) -> Result<()> {
    check_on(&mut Bed::new()?, rows)
}

/// Checks all rows, and says which failed and how.
pub(super) fn check_on(bed: &mut Bed, rows: &[Row]) -> Result<()> {
    let mut failures = Vec::new();
    for row in rows {
        let complaints = check_row(bed, row)?;
        if !complaints.is_empty() {
            failures.push(format!("* {}\n    {}", row.what, complaints.join("\n    ")));
        }
    }
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
    Ok(())
}

fn check_row(bed: &mut Bed, row: &Row) -> Result<Vec<String>> {
    let ran = run_row(bed, row)?;
    let mut complaints = verdict_complaints(row, &ran);
    match row.expected {
        // What could not be rewritten is thrown away, in whatever state it is.
        Expected::Drop(Reason::SynRewriteFailed) => {}
        Expected::Pass(Reason::CookieRecent) => complaints.extend(mark_complaint(bed, &row.frame, &ran.out)),
        Expected::Pass(_) | Expected::Drop(_) => {
            complaints.extend(difference("the frame", &row.frame, &ran.out));
        }
        Expected::Cookie(negotiated) => {
            complaints.extend(mark_complaint(bed, &row.frame, &ran.out));
            complaints.extend(terms_complaint(row, &row.frame, &negotiated));
        }
        Expected::Challenge(negotiated) => {
            complaints.extend(challenge_complaints(bed, row, &negotiated, &ran.out)?);
        }
    }
    Ok(complaints)
}

/// Budgets and loads count by the second: where one ends meanwhile, the frame has met another world than it should, and
/// meets that once more.
fn run_row(bed: &mut Bed, row: &Row) -> Result<Ran> {
    let counts_by_the_second = row.world.config.reply_budget != 0
        || row.world.config.out_of_state_budget != 0
        || row.world.services.iter().any(|(_, service)| service.triggers != TriggerLimits::default());
    loop {
        if counts_by_the_second {
            // When it is tried again, a second of the loads may have ended, and that of the budgets not.
            bed.forget_budgets()?;
            wait_for_a_fresh_second();
        }
        let seconds = seconds()?;
        bed.enter(&row.world)?;
        for frame in &row.before {
            bed.run(frame)?;
        }
        let ran = bed.run_split(&row.frame, row.linear.unwrap_or(row.frame.len()))?;
        if !counts_by_the_second || self::seconds()? == seconds {
            return Ok(ran);
        }
    }
}

/// Action, reason, and the counters of the service.
fn verdict_complaints(row: &Row, ran: &Ran) -> Vec<String> {
    let mut complaints = Vec::new();
    let reason = row.expected.reason();
    if ran.action != row.expected.action() {
        complaints.push(format!("action {}, expected {}", ran.action, row.expected.action()));
    }
    if ran.counted != [(reason, 1)] {
        let counted: Vec<_> =
            ran.counted.iter().map(|(reason, count)| format!("{count} {}", reason.name())).collect();
        complaints.push(format!("counted {}, expected {}", counted.join(" and "), reason.name()));
    }
    let services = ServiceCounters {
        syn_received: u64::from(reason.is_syn()),
        syn_challenged: u64::from(reason == Reason::SynChallenged),
        ack_accepted: u64::from(reason == Reason::Cookie),
        proved: u64::from(reason == Reason::Cookie && row.certain),
        ack_rejected: u64::from(matches!(reason, Reason::AckBadCookie | Reason::AckOutOfState)),
        out_of_state_acks: u64::from(row.out_of_state == OutOfState::Ack),
        out_of_state_rsts: u64::from(row.out_of_state == OutOfState::Rst),
        ..ServiceCounters::default()
    };
    if ran.services != services {
        complaints.push(format!("{:?}, expected {services:?}", ran.services));
    }
    complaints
}

/// A segment of a proven connection: the mark, which is the same on all of them, then the segment itself.
fn mark_complaint(bed: &Bed, segment: &[u8], out: &[u8]) -> Option<String> {
    difference("mark and segment", &[&mark(bed.ifindex()), segment].concat(), out)
}

/// What is handed over.
fn terms_complaint(row: &Row, segment: &[u8], expected: &NegotiatedOptions) -> Option<String> {
    let seen = ParsedFrame::parse(segment).expect("the segment can be read");
    let (_, service) = service_of(&row.world, &seen);
    let got = handed_over(&seen, &row.world, &service);
    // The client's clock goes on.
    let expected = NegotiatedOptions {
        stamp: expected.stamp.and(seen.options.timestamps).map(|(stamp, _)| stamp),
        ..*expected
    };
    (got != Some(expected)).then(|| format!("handed over {got:?}, expected {expected:?}"))
}

/// The reply byte for byte, our timestamp against the clock; then the acknowledgement of it.
fn challenge_complaints(
    bed: &mut Bed,
    row: &Row,
    negotiated: &NegotiatedOptions,
    out: &[u8],
) -> Result<Vec<String>> {
    let Some(reply) = ParsedFrame::parse(out) else {
        return Ok(vec![format!("the reply cannot be read: {}", hex(out))]);
    };
    let syn = ParsedFrame::parse(&row.frame).expect("the SYN can be read");
    let stamp = reply.options.timestamps.map_or(0, |(stamp, _)| stamp);
    let (_, service) = service_of(&row.world, &syn);
    let expected = syn_ack(&row.frame, negotiated, &row.world, &service, stamp);
    let mut complaints: Vec<_> = difference("the reply", &expected, out).into_iter().collect();
    if negotiated.stamp.is_some() {
        complaints.extend(stamp_complaint(&syn, negotiated, stamp, &row.world.config));
    }

    let proof = acknowledgement(&syn, &reply);
    let ran = bed.run(&proof)?;
    if ran.counted != [(Reason::Cookie, 1)] {
        complaints.push(format!("its acknowledgement counted {:?}", ran.counted));
    } else {
        complaints.extend(mark_complaint(bed, &proof, &ran.out));
        complaints.extend(terms_complaint(row, &proof, negotiated));
    }
    Ok(complaints)
}

/// What the client answers to a SYN-ACK.
pub(super) fn acknowledgement(syn: &ParsedFrame, reply: &ParsedFrame) -> Vec<u8> {
    let frame = TcpFrame::new(syn.source, syn.destination)
        .macs(syn.source_mac, syn.destination_mac)
        .flags(flag::ACK)
        .seq(reply.ack)
        .ack(reply.seq.wrapping_add(1));
    match reply.options.timestamps {
        Some((stamp, echo)) => frame.options(&timestamp_options(echo.wrapping_add(3), stamp)).build(),
        None => frame.build(),
    }
}

/// Our timestamp is the clock, moved by the connection's offset, at most 31 ms behind for the sake of its low bits; and the
/// datapath's clock has the grain of a tick and runs a little slow.
fn stamp_complaint(
    syn: &ParsedFrame,
    negotiated: &NegotiatedOptions,
    stamp: u32,
    config: &Config,
) -> Option<String> {
    let now = (monotonic_ns() / 1_000_000) as u32;
    let behind = now.wrapping_add(offset(syn.source, syn.destination, config) as u32).wrapping_sub(stamp);
    let most = 31 + 12 + SLOW_MACHINE_MS + now / 100_000;
    let bits = stamp & 0x1f;
    let right = timestamp_bits(negotiated);
    (behind > most || bits != right)
        .then(|| format!("timestamp {behind} ms behind, low bits {bits:#x}, expected {right:#x}"))
}

/// The service that a segment is to, and its id.
fn service_of(world: &World, seen: &ParsedFrame) -> (u32, Service) {
    let port = seen.destination.port();
    let destination = match seen.destination.ip() {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    };
    let Some((_, ports)) = world.ports.iter().find(|(number, _)| *number == port) else {
        return (0, Service::default());
    };
    let bound = match ports.bound {
        0 => None,
        1 => (ports.bound_address == abi::words(destination)).then_some(u32::from(ports.bound_id)),
        _ => {
            let mut addresses = world.addresses.iter();
            let found = addresses.find(|(key, _)| key.port == port && key.address == destination);
            found.map(|(_, id)| *id)
        }
    };
    let wildcard = if seen.destination.is_ipv4() { ports.wildcard4 } else { ports.wildcard6 };
    let id = bound.unwrap_or(wildcard.into());
    let service = world.services.iter().find(|(number, _)| *number == id).map(|(_, service)| *service);
    (id, service.unwrap_or_default())
}

fn difference(what: &str, expected: &[u8], got: &[u8]) -> Option<String> {
    if expected == got {
        return None;
    }
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    Some(format!(
        "{what} differs from byte {at} on ({} bytes, expected {}):\n      expected {}\n      got      {}",
        got.len(),
        expected.len(),
        hex(expected),
        hex(got)
    ))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(160).map(|byte| format!("{byte:02x}"));
    let mut text: String = shown.collect();
    if bytes.len() > 160 {
        text += "…";
    }
    text
}

/// Budgets count by the second: what is to be in one second must not begin at the end of one.
fn wait_for_a_fresh_second() {
    let into = || clock::milliseconds(monotonic_ns()) & 1023;
    while !(20..600).contains(&into()) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The second that loads count by, and the one that budgets count by.
fn seconds() -> Result<(u32, u32)> {
    let now = defender::dataplane::clock::now()?;
    Ok((now.second, now.ms / 1024))
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure it is given.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(status, 0, "every Linux has this clock");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
