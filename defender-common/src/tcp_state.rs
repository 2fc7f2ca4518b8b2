//! The states of a server's TCP connection (RFC 9293, figure 5), derived from the packets on the wire.
//!
//! The machine sees every segment of a connection in both directions, but not the socket. The server's own
//! acknowledgements are the best evidence of what it received. Until they arrive, in-order segments are
//! assumed received.
//!
//! The wire does not show three things: that the server closed while its FIN still waits behind data, that
//! it dropped a segment, or that it forgot the connection. So nothing here ends a connection. Timers
//! nominate it ([`Track::is_due`]), and then the kernel's socket table decides.

use crate::{
    clock::age,
    wire::tcp::{ACK, FIN, RST, SYN},
};

/// How long a SYN-ACK is retransmitted, in milliseconds: 1 + 2 + 4 + 8 + 16 + 32 s (`tcp_synack_retries`
/// 5).
pub const SYN_RECV_MS: u32 = 63_000;
/// How long TIME_WAIT lasts, in milliseconds (`TCP_TIMEWAIT_LEN`).
pub const TIME_WAIT_MS: u32 = 60_000;
/// How long FIN_WAIT2 lasts without a process, in milliseconds (`TCP_FIN_TIMEOUT`). With a process it has
/// no limit.
pub const FIN_WAIT2_MS: u32 = 60_000;
/// When the kernel is first asked about a FIN without an acknowledgement, in milliseconds. Its
/// retransmissions end later in many cases: the end depends on `tcp_orphan_retries` or `tcp_retries2` and
/// on the round-trip time.
pub const FIN_UNACKNOWLEDGED_MS: u32 = 120_000;

/// `next_in` is known.
pub const TRACK_NEXT_IN: u8 = 1;
/// The client's FIN arrived but does not count yet; `fin_in` is known.
pub const TRACK_FIN_IN: u8 = 2;
/// The server's FIN was sent; `fin_out` is known.
pub const TRACK_FIN_OUT: u8 = 4;
/// The server's SYN-ACK was sent; until its FIN, `fin_out` is the number after it.
pub const TRACK_SYN_OUT: u8 = 8;
/// A SYN arrived after the end and awaits its answer; `fin_in` is the number after it.
pub const TRACK_SYN_IN: u8 = 16;

/// How far the segment that completes a handshake may be from `next_in`, and how far its acknowledgement
/// may be beyond the SYN-ACK: the largest unscaled window.
const WINDOW: u32 = 65_535;

/// TCP states by the kernel's numbers (`include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Both may send.
    Established = 1,
    /// A SYN was answered.
    SynRecv = 3,
    /// The server closed.
    FinWait1 = 4,
    /// The server closed, and the client acknowledged it.
    FinWait2 = 5,
    /// Both closed, the server first. Waits for late segments.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The client closed.
    CloseWait = 8,
    /// The client closed, then the server.
    LastAck = 9,
    /// Both closed at the same time.
    Closing = 11,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Established,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Closing,
    ];

    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Closing => "CLOSING",
        }
    }

    /// The state of a kernel's number. NEW_SYN_RECV counts as SYN_RECV. `None` for a state that no server's
    /// connection has (SYN_SENT, LISTEN).
    #[inline(always)]
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// Whether the kernel reports the end of a connection in this state. A connection without a socket ends
    /// without an event: TIME_WAIT, which follows CLOSING, and FIN_WAIT2 without a process. A connection
    /// that is closed according to the wire may not exist at all.
    #[inline(always)]
    pub const fn ends_heard(self) -> bool {
        !matches!(self, Self::TimeWait | Self::Closing | Self::FinWait2 | Self::Close)
    }

    /// The state after the client's FIN.
    #[inline(always)]
    const fn after_fin_in(self) -> Self {
        match self {
            Self::Established => Self::CloseWait,
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            other => other,
        }
    }

    /// The state after the client's ACK of the server's FIN.
    #[inline(always)]
    const fn after_ack_of_fin(self) -> Self {
        match self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Close,
            other => other,
        }
    }

    /// The handshake is complete, and the client's FIN is still to come.
    #[inline(always)]
    const fn receives(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

/// The direction of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to this host.
    In,
    /// From this host to the client.
    Out,
}

/// The fields of a segment that the machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedSegment {
    /// Its direction.
    pub direction: Direction,
    /// Its flags, as in [`crate::wire::tcp`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bytes of data.
    pub data_len: u32,
}

impl ObservedSegment {
    /// The sequence number after its data and FIN.
    #[inline(always)]
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.len())
    }

    /// The sequence space of its data and FIN.
    #[inline(always)]
    const fn len(&self) -> u32 {
        self.data_len.wrapping_add((self.flags & FIN) as u32)
    }
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Track {
    /// Its state.
    pub state: State,
    /// Which fields are valid: `TRACK_*`.
    pub flags: u8,
    /// The sequence number that the server expects next (RCV.NXT), as far as the wire shows it.
    pub next_in: u32,
    /// The number after a client's FIN that does not count yet. After the end, the number after the
    /// client's new SYN.
    pub fin_in: u32,
    /// The number after the server's FIN, or before that the number after its SYN-ACK.
    pub fin_out: u32,
    /// When `state` was entered, in milliseconds of a wrapping clock.
    pub since: u32,
}

impl Track {
    /// A connection that begins with a SYN from the client.
    #[inline(always)]
    pub fn opening(syn: &ObservedSegment, now: u32) -> Self {
        Self::at(State::SynRecv, TRACK_NEXT_IN, syn.sequence.wrapping_add(1), now)
    }

    /// A connection that the kernel has in this state. Its sequence numbers become known only as the server
    /// acknowledges.
    #[inline(always)]
    pub fn known(state: State, now: u32) -> Self {
        Self::at(state, 0, 0, now)
    }

    /// A connection that was handed over, or whose handshake was observed to complete.
    #[inline(always)]
    pub fn established(next_in: u32, now: u32) -> Self {
        Self::at(State::Established, TRACK_NEXT_IN, next_in, now)
    }

    #[inline(always)]
    fn at(state: State, flags: u8, next_in: u32, since: u32) -> Self {
        Self { state, flags, next_in, fin_in: 0, fin_out: 0, since }
    }

    /// Processes a segment.
    #[inline(always)]
    pub fn step(&mut self, segment: &ObservedSegment, now: u32) {
        let kind = segment.flags & (SYN | FIN | RST | ACK);
        let established = self.state == State::Established && self.flags & TRACK_FIN_IN == 0;
        match segment.direction {
            Direction::In if established && kind == ACK => {
                self.receive(segment);
            }
            Direction::Out if established && kind == ACK => self.acknowledge(segment.acknowledgement),
            Direction::In => self.step_in(segment, kind, now),
            Direction::Out => self.step_out(segment, kind, now),
        }
    }

    /// Whether its timer has expired. Check with the kernel before ending anything.
    #[inline(always)]
    pub fn is_due(&self, now: u32) -> bool {
        let patience = match self.state {
            State::Established | State::CloseWait => return false,
            State::Close => 0,
            State::SynRecv => SYN_RECV_MS,
            State::TimeWait => TIME_WAIT_MS,
            State::FinWait2 => FIN_WAIT2_MS,
            State::FinWait1 | State::LastAck | State::Closing => FIN_UNACKNOWLEDGED_MS,
        };
        age(self.since, now) >= patience
    }

    #[inline(always)]
    fn step_in(&mut self, segment: &ObservedSegment, kind: u8, now: u32) {
        if kind & SYN != 0 {
            // The server may refuse it as an old duplicate, or because the server lags behind the wire's
            // state.
            if kind == SYN && matches!(self.state, State::TimeWait | State::Close) {
                self.flags = self.flags & !TRACK_FIN_IN | TRACK_SYN_IN;
                self.fin_in = segment.sequence.wrapping_add(1);
            }
        } else if kind & RST != 0 {
            // Exactly the next number (RFC 5961, section 3.2). It also ends TIME_WAIT, as in Linux unless
            // tcp_rfc1337 is set (net/ipv4/tcp_minisocks.c, tcp_timewait_state_process).
            if self.knows(TRACK_NEXT_IN) && segment.sequence == self.next_in {
                self.enter(State::Close, now);
            }
        } else if kind & ACK != 0 {
            self.enter(self.after_in(segment), now);
            if self.state.receives() && self.receive(segment) {
                self.enter(self.state.after_fin_in(), now);
            } else if self.state == State::TimeWait && kind & FIN != 0 {
                self.since = now;
            }
        }
    }

    #[inline(always)]
    fn step_out(&mut self, segment: &ObservedSegment, kind: u8, now: u32) {
        if kind == SYN | ACK && self.may_open(segment.acknowledgement) {
            return self.open(segment, now);
        }
        if self.state == State::Close {
            return;
        }
        if kind & RST != 0 {
            return self.enter(State::Close, now);
        }
        if kind & ACK != 0 {
            self.acknowledge(segment.acknowledgement);
            if self.knows(TRACK_FIN_IN) && !is_before(self.next_in, self.fin_in) {
                self.flags &= !TRACK_FIN_IN;
                // Nothing follows a FIN. A FIN behind what the server has received belongs to another
                // connection.
                if self.next_in == self.fin_in {
                    self.enter(self.state.after_fin_in(), now);
                }
            }
        }
        if kind & (FIN | SYN) == FIN {
            self.flags |= TRACK_FIN_OUT;
            self.fin_out = segment.end();
            self.enter(self.after_fin_out(segment), now);
        }
    }

    /// The state after processing a segment's acknowledgement.
    #[inline(always)]
    fn after_in(&self, segment: &ObservedSegment) -> State {
        if self.state == State::SynRecv {
            let place = segment.sequence.wrapping_sub(self.next_in).wrapping_add(WINDOW);
            let in_window = !self.knows(TRACK_NEXT_IN) || place <= 2 * WINDOW;
            // It must acknowledge at least the SYN-ACK, and no more than may follow it (RFC 9293, section
            // 3.10.7.4). An old duplicate acknowledges numbers before it.
            let behind = segment.acknowledgement.wrapping_sub(self.fin_out);
            let answers = !self.knows(TRACK_SYN_OUT) || behind <= WINDOW;
            return if in_window && answers { State::Established } else { State::SynRecv };
        }
        if self.knows(TRACK_FIN_OUT) && !is_before(segment.acknowledgement, self.fin_out) {
            return self.state.after_ack_of_fin();
        }
        self.state
    }

    /// The state after the server's FIN.
    #[inline(always)]
    fn after_fin_out(&self, segment: &ObservedSegment) -> State {
        match self.state {
            State::SynRecv | State::Established => State::FinWait1,
            // The client's FIN passed here, but the server had not received it when it closed: simultaneous
            // close.
            State::CloseWait if segment.acknowledgement != self.next_in => State::Closing,
            State::CloseWait => State::LastAck,
            other => other,
        }
    }

    /// Whether a SYN-ACK with this acknowledgement begins a connection, or repeats one that did. Otherwise
    /// it is late.
    #[inline(always)]
    fn may_open(&self, acknowledgement: u32) -> bool {
        self.state == State::SynRecv || self.knows(TRACK_SYN_IN) && acknowledgement == self.fin_in
    }

    /// The server accepts a SYN.
    #[inline(always)]
    fn open(&mut self, answer: &ObservedSegment, now: u32) {
        self.enter(State::SynRecv, now);
        self.flags = TRACK_NEXT_IN | TRACK_SYN_OUT;
        self.next_in = answer.acknowledgement;
        self.fin_out = answer.sequence.wrapping_add(1);
    }

    /// Advances `next_in` by an in-order segment of the client. Returns whether the client's FIN counts
    /// now.
    #[inline(always)]
    fn receive(&mut self, segment: &ObservedSegment) -> bool {
        let fin = segment.flags & FIN != 0;
        let known = self.knows(TRACK_NEXT_IN);
        // It begins at or before the next number and ends after it.
        if known && self.next_in.wrapping_sub(segment.sequence) < segment.len() {
            self.next_in = segment.end();
            let overtaken = self.knows(TRACK_FIN_IN) && is_before(self.fin_in, self.next_in.wrapping_add(2));
            // The gap before an early FIN may now be closed. A FIN further back belongs to another
            // connection.
            let early = overtaken && self.fin_in.wrapping_sub(self.next_in) <= 1;
            if early && !fin {
                self.next_in = self.fin_in;
            }
            if overtaken || fin {
                self.flags &= !TRACK_FIN_IN;
            }
            return early || fin;
        }
        if fin && (!known || is_before(self.next_in, segment.end())) {
            self.flags |= TRACK_FIN_IN;
            self.fin_in = segment.end();
        }
        false
    }

    /// Advances `next_in` to the server's acknowledgement.
    #[inline(always)]
    fn acknowledge(&mut self, acknowledgement: u32) {
        if !self.knows(TRACK_NEXT_IN) || is_before(self.next_in, acknowledgement) {
            self.next_in = acknowledgement;
            self.flags |= TRACK_NEXT_IN;
        }
    }

    #[inline(always)]
    fn enter(&mut self, state: State, now: u32) {
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    #[inline(always)]
    fn knows(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Whether one sequence number comes before another (RFC 9293, section 3.4).
#[inline(always)]
const fn is_before(number: u32, other: u32) -> bool {
    (number.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THEN: u32 = 1_000;
    const NOW: u32 = 5_000;

    /// In the table: the client's next number, and the number after the server's FIN.
    const NEXT: u32 = 100;
    const OURS: u32 = 900;

    fn seg(
        direction: Direction,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        data_len: u32,
    ) -> ObservedSegment {
        ObservedSegment { direction, flags, sequence, acknowledgement, data_len }
    }

    /// A segment from the client that acknowledges everything but the server's FIN.
    fn client(flags: u8, sequence: u32, data_len: u32) -> ObservedSegment {
        seg(Direction::In, flags, sequence, OURS - 1, data_len)
    }

    /// Like [`client`], but acknowledges the server's FIN too.
    fn client_acks(flags: u8, sequence: u32) -> ObservedSegment {
        seg(Direction::In, flags, sequence, OURS, 0)
    }

    fn server(flags: u8, acknowledgement: u32) -> ObservedSegment {
        seg(Direction::Out, flags, OURS - 1, acknowledgement, 0)
    }

    /// A connection in a state, as if the way there had been observed.
    fn at(state: State) -> Track {
        use State::*;
        let fin_out = matches!(state, FinWait1 | FinWait2 | TimeWait | Closing | LastAck);
        Track {
            flags: TRACK_NEXT_IN | if fin_out { TRACK_FIN_OUT } else { 0 },
            fin_out: if fin_out { OURS } else { 0 },
            next_in: NEXT,
            ..Track::known(state, THEN)
        }
    }

    /// Like [`at`], with an early FIN of the client.
    fn early(state: State, fin_in: u32) -> Track {
        let track = at(state);
        Track { flags: track.flags | TRACK_FIN_IN, fin_in, ..track }
    }

    fn opened() -> Track {
        Track::opening(&client(SYN, NEXT - 1, 0), THEN)
    }

    /// Like [`opened`], after the server's answer.
    fn answered() -> Track {
        let mut track = opened();
        track.step(&seg(Direction::Out, SYN | ACK, OURS - 2, NEXT, 0), NOW);
        track
    }

    /// Like [`at`], with a SYN after the end.
    fn again(state: State, sequence: u32) -> Track {
        let mut track = at(state);
        track.step(&client(SYN, sequence, 0), NOW);
        track
    }

    #[test]
    fn every_arrow() {
        use State::*;
        let rows = [
            // The figure's arrows.
            ("ACK of the SYN", opened(), client(ACK, NEXT, 0), Established),
            ("a request instead of a bare ACK", opened(), client(ACK, NEXT, 20), Established),
            ("the handshake's end got lost", opened(), client(ACK, NEXT + 65_535, 9), Established),
            ("repeated data of the SYN", opened(), client(ACK, NEXT.wrapping_sub(65_535), 9), Established),
            ("ACK of the SYN-ACK", answered(), client(ACK, NEXT, 0), Established),
            ("ACK of data after it", answered(), client_acks(ACK, NEXT), Established),
            (
                "ACK of all it may send",
                answered(),
                seg(Direction::In, ACK, NEXT, OURS + 65_534, 0),
                Established,
            ),
            ("ACK of more", answered(), seg(Direction::In, ACK, NEXT, OURS + 65_535, 0), SynRecv),
            ("ACK of less than the SYN-ACK", answered(), seg(Direction::In, ACK, NEXT, OURS - 2, 0), SynRecv),
            ("FIN with such an ACK", answered(), seg(Direction::In, FIN | ACK, NEXT, OURS - 2, 0), SynRecv),
            ("too far ahead of the SYN", answered(), client(ACK, NEXT + 65_536, 0), SynRecv),
            ("FIN in SYN_RECV, answered", answered(), client(FIN | ACK, NEXT, 0), CloseWait),
            ("server closes in SYN_RECV, answered", answered(), server(FIN | ACK, NEXT), FinWait1),
            ("too far ahead", opened(), client(ACK, NEXT + 65_536, 0), SynRecv),
            ("too far behind", opened(), client(ACK, NEXT.wrapping_sub(65_536), 0), SynRecv),
            ("a FIN too far ahead", opened(), client(FIN | ACK, NEXT + 65_536, 0), SynRecv),
            ("neither ACK, SYN nor RST", opened(), client(0, NEXT, 5), SynRecv),
            ("FIN in SYN_RECV", opened(), client(FIN | ACK, NEXT, 0), CloseWait),
            ("server closes in SYN_RECV", opened(), server(FIN | ACK, NEXT), FinWait1),
            ("client closes", at(Established), client(FIN | ACK, NEXT, 0), CloseWait),
            ("client closes with data", at(Established), client(FIN | ACK, NEXT, 30), CloseWait),
            (
                "client closes, partly repeated data",
                at(Established),
                client(FIN | ACK, NEXT - 9, 30),
                CloseWait,
            ),
            ("FIN without ACK is none", at(Established), client(FIN, NEXT, 0), Established),
            ("server closes", at(Established), server(FIN | ACK, NEXT), FinWait1),
            ("data", at(Established), client(ACK, NEXT, 10), Established),
            ("ACK of the FIN", at(FinWait1), client_acks(ACK, NEXT), FinWait2),
            ("ACK beyond the FIN", at(FinWait1), seg(Direction::In, ACK, NEXT, OURS + 7, 0), FinWait2),
            ("ACK of less", at(FinWait1), client(ACK, NEXT, 0), FinWait1),
            ("FIN", at(FinWait1), client(FIN | ACK, NEXT, 0), Closing),
            ("FIN and ACK of the FIN", at(FinWait1), client_acks(FIN | ACK, NEXT), TimeWait),
            ("early FIN and ACK of the FIN", at(FinWait1), client_acks(FIN | ACK, NEXT + 1), FinWait2),
            ("client closes second", at(FinWait2), client_acks(FIN | ACK, NEXT), TimeWait),
            ("half closed, data", at(FinWait2), client_acks(ACK, NEXT), FinWait2),
            ("ACK of the FIN, crossed", at(Closing), client_acks(ACK, NEXT), TimeWait),
            ("ACK of less, crossed", at(Closing), client(ACK, NEXT, 0), Closing),
            ("server closes second", at(CloseWait), server(FIN | ACK, NEXT), LastAck),
            ("its FIN crosses one it had not got", at(CloseWait), server(FIN | ACK, NEXT - 1), Closing),
            ("half closed, server's data", at(CloseWait), server(ACK, NEXT), CloseWait),
            ("last ACK", at(LastAck), client_acks(ACK, NEXT), Close),
            ("ACK of less at last", at(LastAck), client(ACK, NEXT, 0), LastAck),
            // Early FINs.
            ("early FIN", at(Established), client(FIN | ACK, NEXT + 10, 0), Established),
            ("old FIN", at(Established), client(FIN | ACK, NEXT - 1, 0), Established),
            ("gap closed", early(Established, NEXT + 11), client(ACK, NEXT, 10), CloseWait),
            ("gap closed in part", early(Established, NEXT + 11), client(ACK, NEXT, 9), Established),
            ("server had the rest", early(Established, NEXT + 11), server(ACK, NEXT + 11), CloseWait),
            ("server had not the FIN", early(Established, NEXT + 11), server(ACK, NEXT + 10), Established),
            (
                "the FIN again, in order",
                early(Established, NEXT + 11),
                client(FIN | ACK, NEXT, 10),
                CloseWait,
            ),
            ("and server closes", early(Established, NEXT + 11), server(FIN | ACK, NEXT + 11), LastAck),
            ("server closes before", early(Established, NEXT + 11), server(FIN | ACK, NEXT), FinWait1),
            ("gap closed after", early(FinWait1, NEXT + 11), client(ACK, NEXT, 10), Closing),
            ("gap closed at last", early(FinWait2, NEXT + 11), client(ACK, NEXT, 10), TimeWait),
            ("server had the rest at last", early(FinWait2, NEXT + 11), server(ACK, NEXT + 11), TimeWait),
            // RST.
            ("RST with the next number", at(Established), client(RST, NEXT, 0), Close),
            ("RST with ACK", at(Established), client(RST | ACK, NEXT, 0), Close),
            ("RST beside it", at(Established), client(RST, NEXT + 1, 0), Established),
            ("RST behind it", at(Established), client(RST, NEXT - 1, 0), Established),
            ("RST to SYN_RECV", opened(), client(RST, NEXT, 0), Close),
            ("RST beside SYN_RECV", opened(), client(RST, NEXT + 1, 0), SynRecv),
            ("RST to TIME_WAIT", at(TimeWait), client(RST, NEXT, 0), Close),
            ("RST beside TIME_WAIT", at(TimeWait), client(RST, NEXT + 1, 0), TimeWait),
            ("RST, number not known", Track::known(Established, THEN), client(RST, 0, 0), Established),
            ("server's RST", at(Established), server(RST, 0), Close),
            ("server's RST in SYN_RECV", opened(), server(RST | ACK, NEXT), Close),
            ("server's RST in TIME_WAIT", at(TimeWait), server(RST, 0), Close),
            ("server's RST in CLOSE", at(Close), server(RST, 0), Close),
            // SYN.
            ("SYN again", opened(), client(SYN, NEXT - 1, 0), SynRecv),
            ("SYN-ACK", opened(), server(SYN | ACK, NEXT), SynRecv),
            ("SYN-ACK again", at(Established), server(SYN | ACK, NEXT), Established),
            ("SYN-ACK with FIN", at(Established), server(SYN | FIN | ACK, NEXT), Established),
            ("SYN to a connection", at(Established), client(SYN, NEXT, 0), Established),
            ("SYN-ACK from a client", opened(), client(SYN | ACK, NEXT, 0), SynRecv),
            ("SYN-ACK again, unanswered", answered(), server(SYN | ACK, NEXT), SynRecv),
            // Only the server's answer shows that a SYN began a new connection.
            ("new SYN in TIME_WAIT", at(TimeWait), client(SYN, NEXT + 1, 0), TimeWait),
            ("and its answer", again(TimeWait, NEXT + 1), server(SYN | ACK, NEXT + 2), SynRecv),
            ("a refusal", again(TimeWait, NEXT + 1), server(ACK, NEXT), TimeWait),
            ("another's answer", again(TimeWait, NEXT + 1), server(SYN | ACK, NEXT + 1), TimeWait),
            ("an older SYN's answer, by timestamps", again(TimeWait, 7), server(SYN | ACK, 8), SynRecv),
            ("RST before the answer", again(TimeWait, NEXT + 1), client(RST, NEXT, 0), Close),
            ("FIN before the answer", again(TimeWait, NEXT + 1), client(FIN | ACK, NEXT - 1, 0), TimeWait),
            ("SYN-ACK without a SYN in TIME_WAIT", at(TimeWait), server(SYN | ACK, NEXT + 2), TimeWait),
            ("SYN with the next number in TIME_WAIT", at(TimeWait), client(SYN, NEXT, 0), TimeWait),
            ("old SYN in TIME_WAIT", at(TimeWait), client(SYN, NEXT - 1, 0), TimeWait),
            ("SYN with ACK in TIME_WAIT", at(TimeWait), client(SYN | ACK, NEXT + 1, 0), TimeWait),
            ("SYN, number not known", Track::known(TimeWait, THEN), client(SYN, 1, 0), TimeWait),
            ("SYN in CLOSE", at(Close), client(SYN, 5, 0), Close),
            ("and its answer in CLOSE", again(Close, 5), server(SYN | ACK, 6), SynRecv),
            ("a refusal in CLOSE", again(Close, 5), server(ACK, NEXT), Close),
            ("another's answer in CLOSE", again(Close, 5), server(SYN | ACK, NEXT), Close),
            ("SYN-ACK without a SYN in CLOSE", at(Close), server(SYN | ACK, NEXT), Close),
            ("SYN with ACK in CLOSE", again(Close, 5), client(SYN | ACK, 6, 0), Close),
            ("SYN with FIN in CLOSE", at(Close), client(SYN | FIN, 5, 0), Close),
            ("SYN with RST in CLOSE", at(Close), client(SYN | RST, 5, 0), Close),
            ("data in CLOSE", at(Close), client(ACK, NEXT, 5), Close),
            ("FIN in CLOSE", at(Close), client(FIN | ACK, NEXT, 5), Close),
            ("server's FIN in CLOSE", at(Close), server(FIN | ACK, NEXT), Close),
            // Retransmissions.
            ("FIN again in TIME_WAIT", at(TimeWait), client(FIN | ACK, NEXT - 1, 0), TimeWait),
            ("FIN again in CLOSE_WAIT", at(CloseWait), client(FIN | ACK, NEXT - 1, 0), CloseWait),
            ("FIN again in LAST_ACK", at(LastAck), client(FIN | ACK, NEXT - 1, 0), LastAck),
            ("FIN again in CLOSING", at(Closing), client(FIN | ACK, NEXT - 1, 0), Closing),
            ("and it acknowledges", at(Closing), client_acks(FIN | ACK, NEXT - 1), TimeWait),
            ("server's FIN again in FIN_WAIT1", at(FinWait1), server(FIN | ACK, NEXT), FinWait1),
            ("server's FIN again in FIN_WAIT2", at(FinWait2), server(FIN | ACK, NEXT), FinWait2),
            ("server's FIN again in CLOSING", at(Closing), server(FIN | ACK, NEXT), Closing),
            ("server's FIN again in LAST_ACK", at(LastAck), server(FIN | ACK, NEXT), LastAck),
            // Unknown numbers.
            (
                "FIN, number not known",
                Track::known(Established, THEN),
                client(FIN | ACK, NEXT, 0),
                Established,
            ),
            ("ACK, number not known", Track::known(SynRecv, THEN), client(ACK, 7, 0), Established),
            ("ACK, our FIN not known", Track::known(FinWait1, THEN), client_acks(ACK, 7), FinWait1),
        ];
        for (what, mut track, segment, expected) in rows {
            let before = track;
            track.step(&segment, NOW);
            assert_eq!(track.state, expected, "{what}");
            let restarts = segment.direction == Direction::In
                && before.state == TimeWait
                && segment.flags & (FIN | SYN | RST) == FIN;
            let since = if before.state == expected && !restarts { THEN } else { NOW };
            assert_eq!(track.since, since, "{what}");
        }
    }

    #[test]
    fn numbers_become_known_by_the_server() {
        let mut track = Track::known(State::Established, THEN);
        track.step(&client(ACK, 4_000_000_000, 10), NOW);
        assert!(!track.knows(TRACK_NEXT_IN));
        track.step(&client(FIN | ACK, 4_000_000_010, 5), NOW);
        assert_eq!(track.state, State::Established);
        track.step(&server(ACK, 4_000_000_015), NOW);
        assert_eq!((track.state, track.next_in), (State::Established, 4_000_000_015));
        track.step(&server(ACK, 4_000_000_016), NOW);
        assert_eq!((track.state, track.next_in), (State::CloseWait, 4_000_000_016));

        let mut track = Track::known(State::SynRecv, THEN);
        track.step(&server(SYN | ACK, NEXT), NOW);
        track.step(&client(ACK, NEXT + 70_000, 0), NOW);
        assert_eq!(track.state, State::SynRecv);
        track.step(&client(RST, NEXT, 0), NOW);
        assert_eq!(track.state, State::Close);

        let mut track = Track::known(State::FinWait1, THEN);
        track.step(&server(FIN | ACK, NEXT), NOW);
        track.step(&client_acks(ACK, NEXT), NOW);
        assert_eq!(track.state, State::FinWait2);
    }

    #[test]
    fn next_in_moves() {
        for base in [NEXT, 0, u32::MAX, u32::MAX - 5, 1 << 31] {
            let rows = [
                ("in order", client(ACK, base, 10), 10),
                ("partly repeated", client(ACK, base.wrapping_sub(4), 10), 6),
                ("repeated", client(ACK, base.wrapping_sub(10), 10), 0),
                ("after a gap", client(ACK, base.wrapping_add(1), 10), 0),
                ("bare ACK", client(ACK, base, 0), 0),
                ("keep-alive", client(ACK, base.wrapping_sub(1), 0), 0),
                ("no ACK", client(0, base, 10), 0),
                ("server has more", server(ACK, base.wrapping_add(30)), 30),
                ("server repeats", server(ACK, base.wrapping_sub(30)), 0),
                ("FIN in order", client(FIN | ACK, base, 10), 11),
                ("FIN after a gap", client(FIN | ACK, base.wrapping_add(1), 10), 0),
            ];
            for (what, segment, moved) in rows {
                let mut track = Track::established(base, THEN);
                track.step(&segment, NOW);
                assert_eq!(track.next_in.wrapping_sub(base), moved, "{what} at {base}");
            }
        }
    }

    #[test]
    fn a_new_connection_begins_afresh() {
        for state in [State::TimeWait, State::Close] {
            let mut track = early(state, 5);
            track.step(&client(SYN, NEXT + 1, 0), THEN);
            track.step(&server(SYN | ACK, NEXT + 2), NOW);
            assert_eq!((track.state, track.since), (State::SynRecv, NOW));
            assert_eq!((track.next_in, track.fin_out), (NEXT + 2, OURS));
            assert_eq!(track.flags, TRACK_NEXT_IN | TRACK_SYN_OUT);
            track.step(&server(SYN | ACK, NEXT + 2), NOW + 1);
            assert_eq!((track.state, track.since), (State::SynRecv, NOW));
            track.step(&client_acks(ACK, NEXT + 2), NOW + 2);
            assert_eq!((track.state, track.since), (State::Established, NOW + 2));
        }
    }

    #[test]
    fn timers() {
        use State::*;
        for start in [0, 7, u32::MAX - 10] {
            for state in State::ALL {
                let track = Track::known(state, start);
                let due = |after: u32| track.is_due(start.wrapping_add(after));
                match state {
                    Established | CloseWait => assert!(!due(0) && !due(1 << 31) && !due(u32::MAX)),
                    Close => assert!(due(0)),
                    SynRecv => assert!(!due(62_999) && due(63_000)),
                    TimeWait | FinWait2 => assert!(!due(59_999) && due(60_000)),
                    FinWait1 | LastAck | Closing => assert!(!due(119_999) && due(120_000)),
                }
            }
        }
    }

    #[test]
    fn names_and_numbers() {
        for state in State::ALL {
            assert_eq!(State::from_kernel(state as u8), Some(state));
            assert_eq!(State::ALL.iter().filter(|other| other.name() == state.name()).count(), 1);
        }
        assert_eq!(State::from_kernel(12), Some(State::SynRecv));
        let others = (0..=u8::MAX).filter(|number| State::from_kernel(*number).is_none()).count();
        assert_eq!(others, 256 - 10);
        assert_eq!((State::from_kernel(2), State::from_kernel(10)), (None, None));
    }

    fn any_track() -> impl Strategy<Value = Track> {
        (0..9usize, any::<(u8, u32, u32, u32, u32)>()).prop_map(
            |(state, (flags, next_in, fin_in, fin_out, since))| Track {
                state: State::ALL[state],
                flags,
                next_in,
                fin_in,
                fin_out,
                since,
            },
        )
    }

    /// Any number, with those near the edges as likely as the rest.
    fn any_number() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), 0..3u32, (u32::MAX - 2)..=u32::MAX, (1 << 31) - 2..(1 << 31) + 2u32]
    }

    fn any_segment() -> impl Strategy<Value = ObservedSegment> {
        (any::<bool>(), any::<u8>(), any_number(), any_number(), any_number()).prop_map(
            |(out, flags, s, a, len)| seg(if out { Direction::Out } else { Direction::In }, flags, s, a, len),
        )
    }

    proptest! {
        #[test]
        fn nothing_panics(
            start in any_track(),
            steps in prop::collection::vec((any_segment(), any_number()), 1..50),
        ) {
            let mut track = start;
            for (segment, now) in steps {
                let before = track;
                track.step(&segment, now);
                track.is_due(now);
                prop_assert!(track.since == now || track.state == before.state);
            }
        }
    }
}

/// Two TCP endpoints that follow RFC 9293, a network that reorders, duplicates and drops, and the machine
/// beside the server. The endpoints count in numbers that never wrap. Only those on the wire have 32 bits.
#[cfg(test)]
mod against_a_model {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const RECEIVE_WINDOW: u64 = 65_535;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Phase {
        Closed,
        SynSent,
        SynReceived,
        Established,
        FinWait1,
        FinWait2,
        CloseWait,
        Closing,
        LastAck,
        TimeWait,
    }

    #[derive(Clone, Copy, Debug, Default)]
    struct SimulatedPacket {
        syn: bool,
        fin: bool,
        rst: bool,
        ack: Option<u64>,
        seq: u64,
        len: u64,
    }

    impl SimulatedPacket {
        fn data_end(&self) -> u64 {
            self.seq + self.len
        }

        fn space(&self) -> u64 {
            self.len + u64::from(self.syn) + u64::from(self.fin)
        }
    }

    #[derive(Clone, Debug)]
    struct Endpoint {
        phase: Phase,
        listens: bool,
        /// Keeps out-of-order segments.
        keeps: bool,
        iss: u64,
        una: u64,
        nxt: u64,
        fin: Option<u64>,
        rcv: u64,
        kept: Vec<SimulatedPacket>,
        since: u32,
        now: u32,
    }

    impl Endpoint {
        fn new(listens: bool, keeps: bool) -> Self {
            let (iss, una, nxt) = (10, 10, 10);
            let (phase, fin, rcv, kept) = (Phase::Closed, None, 0, Vec::new());
            Self { phase, listens, keeps, iss, una, nxt, fin, rcv, kept, since: 0, now: 0 }
        }

        fn go(&mut self, phase: Phase) {
            if phase == Phase::Closed {
                self.una = self.nxt;
            }
            self.phase = phase;
            self.since = self.now;
        }

        fn begin(&mut self, phase: Phase, gap: u64) {
            self.iss = self.nxt + gap;
            self.una = self.iss;
            self.nxt = self.iss + 1;
            self.fin = None;
            self.kept.clear();
            self.go(phase);
        }

        fn ack(&self) -> SimulatedPacket {
            SimulatedPacket { ack: Some(self.rcv), seq: self.nxt, ..SimulatedPacket::default() }
        }

        fn syn(&self) -> SimulatedPacket {
            let ack = (self.phase != Phase::SynSent).then_some(self.rcv);
            SimulatedPacket { syn: true, seq: self.iss, ack, ..SimulatedPacket::default() }
        }

        fn open(&mut self, gap: u64) -> Vec<SimulatedPacket> {
            if self.phase != Phase::Closed {
                return Vec::new();
            }
            self.begin(Phase::SynSent, gap);
            vec![self.syn()]
        }

        fn write(&mut self, len: u64) -> Vec<SimulatedPacket> {
            if !matches!(self.phase, Phase::Established | Phase::CloseWait) {
                return Vec::new();
            }
            let packet = SimulatedPacket { len, ..self.ack() };
            self.nxt += len;
            vec![packet]
        }

        fn close(&mut self) -> Vec<SimulatedPacket> {
            match self.phase {
                Phase::SynSent => self.go(Phase::Closed),
                Phase::SynReceived | Phase::Established => self.go(Phase::FinWait1),
                Phase::CloseWait => self.go(Phase::LastAck),
                _ => return Vec::new(),
            }
            if self.phase == Phase::Closed {
                return Vec::new();
            }
            let packet = SimulatedPacket { fin: true, ..self.ack() };
            self.fin = Some(self.nxt);
            self.nxt += 1;
            vec![packet]
        }

        fn abort(&mut self) -> Vec<SimulatedPacket> {
            let packet = SimulatedPacket { rst: true, ..self.ack() };
            match self.phase {
                Phase::Closed | Phase::SynSent | Phase::Closing | Phase::LastAck | Phase::TimeWait => {
                    Vec::new()
                }
                _ => {
                    self.go(Phase::Closed);
                    vec![packet]
                }
            }
        }

        /// 2 MSL are over.
        fn forget(&mut self) {
            if self.phase == Phase::TimeWait {
                self.go(Phase::Closed);
            }
        }

        /// Retransmits the first `cut` bytes of unacknowledged data.
        fn repeat(&self, cut: u64) -> Vec<SimulatedPacket> {
            if self.una == self.nxt {
                return Vec::new();
            }
            if self.una == self.iss {
                return vec![self.syn()];
            }
            let data_end = self.fin.unwrap_or(self.nxt);
            let len = cut.min(data_end - self.una);
            let fin = self.fin == Some(self.una + len);
            vec![SimulatedPacket { seq: self.una, len, fin, ..self.ack() }]
        }

        fn reset(&self, packet: &SimulatedPacket) -> Vec<SimulatedPacket> {
            match packet.ack {
                _ if packet.rst => Vec::new(),
                Some(ack) => vec![SimulatedPacket { rst: true, seq: ack, ..SimulatedPacket::default() }],
                None => {
                    vec![SimulatedPacket {
                        rst: true,
                        ack: Some(packet.seq + packet.space()),
                        ..SimulatedPacket::default()
                    }]
                }
            }
        }

        /// RFC 9293, section 3.10.7.
        fn arrives(&mut self, packet: &SimulatedPacket) -> Vec<SimulatedPacket> {
            let opens = self.listens && packet.syn && packet.ack.is_none() && !packet.rst;
            match self.phase {
                Phase::Closed if opens => self.accept(packet),
                Phase::Closed => self.reset(packet),
                Phase::SynSent => self.arrives_in_syn_sent(packet),
                Phase::TimeWait if opens && packet.seq > self.rcv => self.accept(packet),
                _ => self.arrives_otherwise(packet),
            }
        }

        fn accept(&mut self, packet: &SimulatedPacket) -> Vec<SimulatedPacket> {
            self.begin(Phase::SynReceived, 100_000);
            self.rcv = packet.seq + 1;
            vec![self.syn()]
        }

        fn arrives_in_syn_sent(&mut self, packet: &SimulatedPacket) -> Vec<SimulatedPacket> {
            match packet.ack {
                Some(ack) if ack != self.nxt => return self.reset(packet),
                Some(ack) if packet.rst => {
                    self.una = ack;
                    self.go(Phase::Closed);
                }
                Some(ack) if packet.syn => {
                    self.una = ack;
                    self.rcv = packet.seq + 1;
                    self.go(Phase::Established);
                    return vec![self.ack()];
                }
                _ => {}
            }
            Vec::new()
        }

        fn acceptable(&self, packet: &SimulatedPacket) -> bool {
            let window = self.rcv..self.rcv + RECEIVE_WINDOW;
            window.contains(&packet.seq)
                || packet.space() > 0 && window.contains(&(packet.seq + packet.space() - 1))
        }

        fn arrives_otherwise(&mut self, packet: &SimulatedPacket) -> Vec<SimulatedPacket> {
            if self.phase == Phase::TimeWait && packet.fin {
                self.since = self.now;
            }
            if !self.acceptable(packet) {
                let again = self.phase == Phase::SynReceived && packet.syn && packet.seq + 1 == self.rcv;
                return match packet.rst {
                    true => Vec::new(),
                    false if again => vec![self.syn()],
                    false => vec![self.ack()],
                };
            }
            if packet.rst && packet.seq == self.rcv {
                self.go(Phase::Closed);
                return Vec::new();
            }
            if packet.rst || packet.syn {
                return vec![self.ack()];
            }
            let Some(ack) = packet.ack else { return Vec::new() };
            if self.phase == Phase::SynReceived {
                if ack != self.nxt {
                    return self.reset(packet);
                }
                self.go(Phase::Established);
            }
            if ack > self.nxt {
                return vec![self.ack()];
            }
            self.una = self.una.max(ack);
            if self.fin.is_some_and(|fin| self.una > fin) {
                match self.phase {
                    Phase::FinWait1 => self.go(Phase::FinWait2),
                    Phase::Closing => self.go(Phase::TimeWait),
                    Phase::LastAck => self.go(Phase::Closed),
                    _ => {}
                }
            }
            if packet.len == 0 && !packet.fin || self.phase == Phase::Closed {
                return Vec::new();
            }
            self.take(packet);
            vec![self.ack()]
        }

        fn take(&mut self, packet: &SimulatedPacket) {
            self.kept.push(*packet);
            while let Some(index) = self.kept.iter().position(|kept| kept.seq <= self.rcv) {
                let kept = self.kept.remove(index);
                if !matches!(self.phase, Phase::Established | Phase::FinWait1 | Phase::FinWait2) {
                    continue;
                }
                self.rcv = self.rcv.max(kept.data_end());
                if kept.fin && self.rcv == kept.data_end() {
                    self.rcv += 1;
                    match self.phase {
                        Phase::Established => self.go(Phase::CloseWait),
                        Phase::FinWait1 => self.go(Phase::Closing),
                        _ => self.go(Phase::TimeWait),
                    }
                }
            }
            if !self.keeps {
                self.kept.clear();
            }
        }
    }

    /// Parameters of the simulated world.
    #[derive(Clone, Copy, Debug)]
    struct Parameters {
        /// The machine is compared after every event: nothing is lost or retransmitted, and no SYN is
        /// duplicated.
        exact: bool,
        /// Segments pass the machine some time before they reach the server.
        slow: bool,
        /// The server keeps out-of-order segments.
        keeps: bool,
        /// The wire numbers that stand for 0.
        client_zero: u32,
        server_zero: u32,
    }

    #[derive(Clone, Copy, Debug)]
    enum SimulatedEvent {
        Open(u64),
        ClientWrites(u64),
        ServerWrites(u64),
        ClientCloses,
        ServerCloses,
        ClientAborts,
        ServerAborts,
        ClientRepeats(u64),
        ServerRepeats(u64),
        ClientForgets,
        ToServer(usize),
        ToClient(usize),
        DuplicateToServer(usize),
        DuplicateToClient(usize),
        LoseToServer(usize),
        LoseToClient(usize),
        HostWorks,
    }

    #[derive(Debug)]
    struct SimulatedWorld {
        parameters: Parameters,
        client: Endpoint,
        server: Endpoint,
        to_server: Vec<SimulatedPacket>,
        to_client: Vec<SimulatedPacket>,
        host: VecDeque<SimulatedPacket>,
        track: Option<Track>,
        now: u32,
    }

    /// Takes one item of a list, if there is any.
    fn pick(list: &mut Vec<SimulatedPacket>, index: usize) -> Option<SimulatedPacket> {
        (!list.is_empty()).then(|| list.remove(index % list.len()))
    }

    impl SimulatedWorld {
        fn new(parameters: Parameters) -> Self {
            let (to_server, to_client, host) = (Vec::new(), Vec::new(), VecDeque::new());
            let (client, server) = (Endpoint::new(false, true), Endpoint::new(true, parameters.keeps));
            Self { parameters, client, server, to_server, to_client, host, track: None, now: u32::MAX - 20 }
        }

        fn show(&mut self, direction: Direction, packet: &SimulatedPacket) {
            let (zero, other) = match direction {
                Direction::In => (self.parameters.client_zero, self.parameters.server_zero),
                Direction::Out => (self.parameters.server_zero, self.parameters.client_zero),
            };
            let bit = |set: bool, flag: u8| if set { flag } else { 0 };
            let segment = ObservedSegment {
                direction,
                flags: bit(packet.syn, SYN)
                    | bit(packet.fin, FIN)
                    | bit(packet.rst, RST)
                    | bit(packet.ack.is_some(), ACK)
                    | 0x08,
                sequence: zero.wrapping_add(packet.seq as u32),
                acknowledgement: packet.ack.map_or(0, |ack| other.wrapping_add(ack as u32)),
                data_len: packet.len as u32,
            };
            match &mut self.track {
                Some(track) => track.step(&segment, self.now),
                None if packet.syn && direction == Direction::In => {
                    self.track = Some(Track::opening(&segment, self.now));
                }
                None => {}
            }
        }

        /// A SYN that its client has abandoned creates an attempt that only a reset ends. During it, the
        /// server resets acknowledgements of the attempt before, without ending the new one. The wire does
        /// not tell the two apart.
        fn is_stale(&self, packet: &SimulatedPacket) -> bool {
            let stands = self.client.phase == Phase::SynSent && self.client.iss == packet.seq;
            let overtakes =
                self.parameters.slow && (self.server.phase != Phase::Closed || !self.host.is_empty());
            packet.syn && packet.ack.is_none() && (!stands || overtakes)
        }

        fn reach_host(&mut self, packet: SimulatedPacket) {
            if self.is_stale(&packet) {
                return;
            }
            self.show(Direction::In, &packet);
            self.host.push_back(packet);
            if !self.parameters.slow {
                self.host_works();
            }
        }

        fn host_works(&mut self) {
            if let Some(packet) = self.host.pop_front() {
                let replies = self.server.arrives(&packet);
                self.leave_host(replies);
            }
        }

        fn leave_host(&mut self, packets: Vec<SimulatedPacket>) {
            for packet in packets {
                self.show(Direction::Out, &packet);
                self.to_client.push(packet);
            }
        }

        fn reach_client(&mut self, packet: SimulatedPacket) {
            let replies = self.client.arrives(&packet);
            self.to_server.extend(replies);
        }

        fn happen(&mut self, event: SimulatedEvent) {
            self.now = self.now.wrapping_add(1);
            self.client.now = self.now;
            self.server.now = self.now;
            let Parameters { exact, slow, keeps, .. } = self.parameters;
            match event {
                // For a slow or forgetful server, the wire does not show a new connection's first segments,
                // or whether a reset has the right number.
                SimulatedEvent::Open(gap) if self.track.is_none() || !slow && keeps => {
                    let packets = self.client.open(gap);
                    self.to_server.extend(packets);
                }
                SimulatedEvent::ClientAborts if !slow && keeps => {
                    let packets = self.client.abort();
                    self.to_server.extend(packets);
                }
                SimulatedEvent::Open(_) | SimulatedEvent::ClientAborts => {}
                SimulatedEvent::ClientWrites(len) => {
                    let packets = self.client.write(len);
                    self.to_server.extend(packets);
                }
                SimulatedEvent::ClientCloses => {
                    let packets = self.client.close();
                    self.to_server.extend(packets);
                }
                SimulatedEvent::ServerWrites(len) => {
                    let packets = self.server.write(len);
                    self.leave_host(packets);
                }
                SimulatedEvent::ServerCloses => {
                    let packets = self.server.close();
                    self.leave_host(packets);
                }
                SimulatedEvent::ServerAborts if self.server.una == self.server.iss => {}
                SimulatedEvent::ServerAborts => {
                    let packets = self.server.abort();
                    self.leave_host(packets);
                }
                SimulatedEvent::ClientForgets => self.client.forget(),
                SimulatedEvent::ToServer(index) => {
                    if let Some(packet) = pick(&mut self.to_server, index) {
                        self.reach_host(packet);
                    }
                }
                SimulatedEvent::ToClient(index) => {
                    if let Some(packet) = pick(&mut self.to_client, index) {
                        self.reach_client(packet);
                    }
                }
                SimulatedEvent::DuplicateToServer(index) => {
                    let packet = self.to_server.get(index % self.to_server.len().max(1)).copied();
                    self.to_server.extend(packet.filter(|packet| !(exact && packet.syn)));
                }
                SimulatedEvent::DuplicateToClient(index) => {
                    let packet = self.to_client.get(index % self.to_client.len().max(1)).copied();
                    self.to_client.extend(packet);
                }
                SimulatedEvent::HostWorks => self.host_works(),
                _ if exact => {}
                SimulatedEvent::ClientRepeats(cut) => self.to_server.extend(self.client.repeat(cut)),
                SimulatedEvent::ServerRepeats(cut) => {
                    let packets = self.server.repeat(cut);
                    self.leave_host(packets);
                }
                SimulatedEvent::LoseToServer(index) => {
                    pick(&mut self.to_server, index);
                }
                SimulatedEvent::LoseToClient(index) => {
                    pick(&mut self.to_client, index);
                }
            }
        }

        /// Delivers everything in order.
        fn deliver(&mut self) -> Result<(), TestCaseError> {
            for _ in 0..10_000 {
                if !self.host.is_empty() {
                    self.happen(SimulatedEvent::HostWorks);
                } else if !self.to_server.is_empty() {
                    self.happen(SimulatedEvent::ToServer(0));
                } else if !self.to_client.is_empty() {
                    self.happen(SimulatedEvent::ToClient(0));
                } else {
                    return Ok(());
                }
                self.compare_if_exact()?;
            }
            Err(TestCaseError::fail("never quiet"))
        }

        /// Delivers and retransmits until neither end has anything left to send.
        fn settle(&mut self) -> Result<(), TestCaseError> {
            for _ in 0..100 {
                self.deliver()?;
                let packets = self.client.repeat(u64::MAX);
                self.to_server.extend(packets);
                let packets = self.server.repeat(u64::MAX);
                self.leave_host(packets);
                if self.to_server.is_empty() && self.to_client.is_empty() {
                    return self.compare();
                }
            }
            Err(TestCaseError::fail("never settled"))
        }

        fn compare_if_exact(&self) -> Result<(), TestCaseError> {
            if self.parameters.exact { self.compare() } else { Ok(()) }
        }

        fn compare(&self) -> Result<(), TestCaseError> {
            let expected = match self.server.phase {
                Phase::Closed | Phase::SynSent => State::Close,
                Phase::SynReceived => State::SynRecv,
                Phase::Established => State::Established,
                Phase::FinWait1 => State::FinWait1,
                Phase::FinWait2 => State::FinWait2,
                Phase::CloseWait => State::CloseWait,
                Phase::Closing => State::Closing,
                Phase::LastAck => State::LastAck,
                Phase::TimeWait => State::TimeWait,
            };
            let Some(track) = self.track else {
                prop_assert_eq!(expected, State::Close);
                return Ok(());
            };
            prop_assert_eq!(track.state, expected, "{:?}", self);
            if track.state != State::Close {
                let next_in = self.parameters.client_zero.wrapping_add(self.server.rcv as u32);
                prop_assert_eq!(track.next_in, next_in, "{:?}", self);
            }
            if self.parameters.exact {
                prop_assert_eq!(track.since, self.server.since, "{:?}", self);
            }
            Ok(())
        }

        fn run(
            parameters: Parameters,
            opened: bool,
            events: &[SimulatedEvent],
        ) -> Result<Self, TestCaseError> {
            let mut world = Self::new(parameters);
            if opened {
                world.happen(SimulatedEvent::Open(1));
                world.deliver()?;
            }
            for event in events {
                world.happen(*event);
                world.compare_if_exact()?;
            }
            world.settle()?;
            Ok(world)
        }
    }

    fn any_event() -> impl Strategy<Value = SimulatedEvent> {
        let index = || 0..8usize;
        let bytes = || 1..1000u64;
        prop_oneof![
            2 => (1..200_000u64).prop_map(SimulatedEvent::Open),
            3 => bytes().prop_map(SimulatedEvent::ClientWrites),
            3 => bytes().prop_map(SimulatedEvent::ServerWrites),
            2 => Just(SimulatedEvent::ClientCloses),
            2 => Just(SimulatedEvent::ServerCloses),
            1 => Just(SimulatedEvent::ClientAborts),
            1 => Just(SimulatedEvent::ServerAborts),
            2 => bytes().prop_map(SimulatedEvent::ClientRepeats),
            2 => bytes().prop_map(SimulatedEvent::ServerRepeats),
            1 => Just(SimulatedEvent::ClientForgets),
            7 => index().prop_map(SimulatedEvent::ToServer),
            7 => index().prop_map(SimulatedEvent::ToClient),
            2 => index().prop_map(SimulatedEvent::DuplicateToServer),
            1 => index().prop_map(SimulatedEvent::DuplicateToClient),
            2 => index().prop_map(SimulatedEvent::LoseToServer),
            2 => index().prop_map(SimulatedEvent::LoseToClient),
            6 => Just(SimulatedEvent::HostWorks),
        ]
    }

    /// The wire number for 0: any, or one that makes the numbers wrap soon.
    fn any_zero() -> impl Strategy<Value = u32> {
        prop_oneof![any::<u32>(), u32::MAX - 1500..=u32::MAX, (1u32 << 31) - 1500..1 << 31]
    }

    fn any_run() -> impl Strategy<Value = (u32, u32, bool, Vec<SimulatedEvent>)> {
        (any_zero(), any_zero(), prop::bool::weighted(0.8), prop::collection::vec(any_event(), 1..60))
    }

    /// The server drops a retransmitted FIN along with the acknowledgement that moves the machine to
    /// TIME_WAIT. In CLOSING it refuses the SYN, and the old duplicate that follows completes no handshake.
    #[test]
    fn a_refused_syn_opens_nothing() {
        use SimulatedEvent::*;
        let parameters =
            Parameters { exact: false, slow: false, keeps: true, client_zero: 0, server_zero: 0 };
        let events = [
            ClientCloses,
            DuplicateToServer(0),
            LoseToServer(0),
            ServerCloses,
            ToClient(0),
            ClientRepeats(1),
            ToServer(0),
            ToClient(0),
            ClientForgets,
            ToServer(1),
            DuplicateToClient(0),
            Open(1),
            ToServer(1),
            ClientCloses,
        ];
        SimulatedWorld::run(parameters, true, &events).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn the_same_after_every_segment((client_zero, server_zero, opened, events) in any_run()) {
            let parameters = Parameters { exact: true, slow: false, keeps: true, client_zero, server_zero };
            SimulatedWorld::run(parameters, opened, &events)?;
        }

        #[test]
        fn the_same_in_the_end((client_zero, server_zero, opened, events) in any_run()) {
            let parameters = Parameters { exact: false, slow: false, keeps: true, client_zero, server_zero };
            SimulatedWorld::run(parameters, opened, &events)?;
        }

        #[test]
        fn the_same_in_the_end_if_the_server_is_slow(
            (client_zero, server_zero, opened, events) in any_run(),
            keeps: bool,
        ) {
            let parameters = Parameters { exact: false, slow: true, keeps, client_zero, server_zero };
            SimulatedWorld::run(parameters, opened, &events)?;
        }

        #[test]
        fn the_same_in_the_end_if_the_server_drops_early_segments(
            (client_zero, server_zero, opened, events) in any_run(),
        ) {
            let parameters = Parameters { exact: false, slow: false, keeps: false, client_zero, server_zero };
            SimulatedWorld::run(parameters, opened, &events)?;
        }
    }
}
