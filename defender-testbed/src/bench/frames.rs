//! The frames for measuring programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use defender_common::wire::address::{Flow, V4};
use defender_testbed::{
    abi::{MEASURED_MAX, Orders, SPREAD},
    frame::{TcpFrame, flag, linux_options, timestamp_options},
    topology::{SERVER_V4, SERVER_V6},
};

/// The port of the service.
pub(super) const PORT: u16 = 80;

/// The source port of the first flow.
const FIRST_PORT: u16 = 0x4000;
/// The upper half of every sequence number.
const SEQUENCE: u32 = 0x1234_0000;
/// The client's timestamp.
pub(super) const STAMP: u32 = 0x1234_5678;
/// The window scale that clients offer.
pub(super) const SCALE: u8 = 7;
/// The half of [`SEQUENCE`] that the meter fills in.
const OPEN: u32 = 0xffff;
const VLAN: u16 = 7;
const ETHERNET: u32 = 14;
const PROTOCOL: usize = 23;
const UDP: u8 = 17;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A SYN with the options of Linux.
    Syn,
    /// The same over IPv6.
    Syn6,
    /// The same below a VLAN tag.
    SynTagged,
    /// An ACK with its flow's number from `ANSWERS`, and this timestamp echo.
    Answer(u32),
    /// An ACK without a valid cookie.
    Forged,
    /// A segment with data.
    Data,
    /// A UDP packet.
    Udp,
}

impl Kind {
    /// The frame, with zeros and ones where the meter fills in flows.
    fn template(self) -> Vec<u8> {
        match self {
            Self::SynTagged => self.tcp().vlan(VLAN).build(),
            Self::Udp => {
                let mut frame = self.tcp().build();
                frame[PROTOCOL] = UDP;
                frame
            }
            _ => self.tcp().build(),
        }
    }

    fn tcp(self) -> TcpFrame {
        let (client, server) = self.ends();
        let frame = TcpFrame::new(client, server).identification(0xffff).seq(SEQUENCE | OPEN);
        match self {
            Self::Syn | Self::SynTagged => frame.flags(flag::SYN).options(&linux_options(1460, STAMP, SCALE)),
            Self::Syn6 => frame.flags(flag::SYN).options(&linux_options(1440, STAMP, SCALE)),
            Self::Answer(echo) => {
                frame.flags(flag::ACK).ack(0).urgent(0xffff).options(&timestamp_options(STAMP, echo))
            }
            Self::Forged | Self::Udp => {
                frame.flags(flag::ACK).ack(0x1234_5678).options(&timestamp_options(STAMP, 1))
            }
            Self::Data => {
                let frame = frame.flags(flag::ACK | flag::PSH).ack(0x1234_5678);
                frame.options(&timestamp_options(STAMP, 1)).payload(b"how do you do today?")
            }
        }
    }

    /// Client and server. The parts of the client's address that the meter fills in are zero.
    fn ends(self) -> (SocketAddr, SocketAddr) {
        let (client, server): (IpAddr, IpAddr) = match self {
            Self::Syn6 => (Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0).into(), SERVER_V6.into()),
            _ => (Ipv4Addr::new(198, 18, 0, 0).into(), SERVER_V4.into()),
        };
        (SocketAddr::new(client, 0), SocketAddr::new(server, 0))
    }

    /// Orders to send this frame from this many flows, a power of two.
    pub(super) fn orders(self, flows: u32) -> Orders {
        let frame = self.template();
        let mut template = [0; MEASURED_MAX];
        template[..frame.len()].copy_from_slice(&frame);
        let network = ETHERNET + if self == Self::SynTagged { 4 } else { 0 };
        let (source, tcp) = if self == Self::Syn6 { (22, 40) } else { (14, 20) };
        let words = template.as_chunks::<8>().0;
        let mut orders = Orders {
            template: [0; MEASURED_MAX / 8],
            len: frame.len() as u32,
            source: network + source,
            tcp: if self == Self::Udp { 0 } else { network + tcp },
            flow_bits: flows.trailing_zeros(),
            first_port: FIRST_PORT.into(),
            service_port: PORT.into(),
            services: 1,
            answers: u32::from(matches!(self, Self::Answer(_))),
            program: 0,
            identification: if self == Self::Syn6 { 0 } else { network + 4 },
            next: 0,
        };
        for (to, word) in orders.template.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(*word);
        }
        orders
    }
}

/// Which of this many flows, a power of two, comes at this position.
pub(super) fn spread(place: u32, flows: u32) -> u32 {
    u64::from(place).wrapping_mul(SPREAD) as u32 & (flows - 1)
}

/// The IPv4 flow with this number, and the sequence number of its segments.
pub(super) fn flow4(number: u32) -> (Flow<V4>, u32) {
    let [.., high, low] = number.to_be_bytes();
    let flow = Flow {
        source: V4(u32::from_ne_bytes([198, 18, high, low])),
        destination: SERVER_V4.into(),
        source_port: FIRST_PORT + (number >> 16) as u16,
        destination_port: PORT,
    };
    (flow, sequence(number))
}

/// The lower half compensates for the differences between flows, see `Orders`.
fn sequence(number: u32) -> u32 {
    let words = [number & 0xffff, u32::from(FIRST_PORT) + (number >> 16), PORT.into()];
    let sum: u32 = words.into_iter().sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    SEQUENCE | (!folded & 0xffff)
}

/// The frame that the meter's program makes of these orders, for one service and the flow with this number.
/// Uses this acknowledgement number, if given.
pub(super) fn frame(orders: &Orders, number: u32, answer: Option<u32>) -> Vec<u8> {
    let mut frame: Vec<u8> = orders.template.iter().flat_map(|word| word.to_ne_bytes()).collect();
    frame.truncate(orders.len as usize);
    let mut put = |at: u32, value: u16| frame[at as usize..][..2].copy_from_slice(&value.to_be_bytes());
    put(orders.source, number as u16);
    if orders.identification != 0 {
        put(orders.identification, !number as u16);
    }
    if orders.tcp == 0 {
        return frame;
    }
    let (flow, sequence) = flow4(number);
    put(orders.tcp, flow.source_port);
    put(orders.tcp + 2, PORT);
    put(orders.tcp + 6, sequence as u16);
    if let Some(answer) = answer {
        let halves = [(answer >> 16) as u16, answer as u16];
        put(orders.tcp + 8, halves[0]);
        put(orders.tcp + 10, halves[1]);
        put(orders.tcp + 18, complement(&halves.map(u32::from)));
    }
    frame
}

/// The word that makes the sum of words zero.
fn complement(words: &[u32]) -> u16 {
    let sum: u32 = words.iter().sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use defender_testbed::frame::{ParsedFrame, SumState};

    use super::*;

    #[test]
    fn checksums_stay_true() {
        for kind in [Kind::Syn, Kind::Syn6, Kind::SynTagged, Kind::Forged, Kind::Data] {
            for number in [0, 1, 0xffff, 0x1_0000, 0xf_ffff] {
                let frame = frame(&kind.orders(1 << 20), number, None);
                let seen = ParsedFrame::parse(&frame).expect("readable");
                assert_eq!(seen.checksum, SumState::Valid, "{kind:?} {number}");
                assert!(seen.ip_checksum_valid, "{kind:?} {number}");
                assert_eq!(seen.destination.port(), PORT);
            }
        }
    }

    #[test]
    fn lengths_are_even_and_within_bounds() {
        for kind in
            [Kind::Syn, Kind::Syn6, Kind::SynTagged, Kind::Answer(1), Kind::Forged, Kind::Data, Kind::Udp]
        {
            let orders = kind.orders(8);
            assert!(orders.len % 2 == 0 && orders.len as usize <= MEASURED_MAX, "{kind:?}");
        }
    }
}
