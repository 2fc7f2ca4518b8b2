//! The TCP header (RFC 9293, section 3.1).

use network_types::tcp::TcpHdr;

use super::{Ip, Packet, address::Flow, options::Options};
use crate::verdict::Reason;

/// Length of a header without options.
pub const HEADER_LEN: usize = TcpHdr::LEN;

/// The byte that holds the data offset.
const DATA_OFFSET: usize = 12;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// A TCP header and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<A> {
    /// The connection.
    pub flow: Flow<A>,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The flags, CWR to FIN.
    pub flags: u8,
    /// The window field.
    pub window: u16,
    /// Where the header begins.
    pub header: usize,
    /// Bytes of options.
    pub options_len: usize,
    /// Bytes of TCP header and data.
    pub len: usize,
    /// The sum of the header's five words, including the checksum field.
    pub header_sum: u64,
    /// The checksum field, in memory order.
    pub checksum: u16,
    /// It is the first of several fragments.
    pub first_fragment: bool,
    /// The IP header's type of service or traffic class.
    pub tos: u8,
}

impl<A> Segment<A> {
    /// The options of the header.
    #[inline(always)]
    pub fn options(&self) -> Options {
        Options { header: self.header, len: self.options_len }
    }

    /// The bits between data offset and CWR, the lowest of which is AE. Loaded again, since it is rarely
    /// needed.
    #[inline(always)]
    pub fn reserved(&self, packet: &(impl Packet + ?Sized)) -> u8 {
        packet.byte(self.header + DATA_OFFSET).unwrap_or_default() & 0xf
    }

    /// Where the data begins.
    #[inline(always)]
    pub fn data(&self) -> usize {
        self.header + HEADER_LEN + self.options_len
    }

    /// Bytes of data behind the header.
    #[inline(always)]
    pub fn data_len(&self) -> usize {
        self.len.saturating_sub(HEADER_LEN + self.options_len)
    }
}

/// Reads the TCP header of an IP packet.
#[inline(always)]
pub fn parse<A: Copy>(packet: &(impl Packet + ?Sized), ip: &Ip<A>) -> Result<Segment<A>, Reason> {
    let cut_short = if ip.first_fragment { Reason::FragmentHeader } else { Reason::MalformedTcp };
    if ip.transport_len < HEADER_LEN {
        return Err(cut_short);
    }
    let words: Option<[u32; 5]> = packet.words(ip.transport);
    let Some(words) = words else { return Err(Reason::MalformedTcp) };
    let [ports, sequence, acknowledgement, control, check] = words;
    let [data_offset, flags, ..] = control.to_ne_bytes();
    let header_len = (data_offset as usize & 0xf0) >> 2;
    if header_len < HEADER_LEN {
        return Err(Reason::MalformedTcp);
    }
    if header_len > ip.transport_len {
        return Err(cut_short);
    }
    let mut header_sum = 0;
    for word in words {
        header_sum += word as u64;
    }
    let ports = u32::from_be(ports);
    Ok(Segment {
        flow: Flow {
            source: ip.source,
            destination: ip.destination,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
        },
        sequence: u32::from_be(sequence),
        acknowledgement: u32::from_be(acknowledgement),
        flags,
        window: u32::from_be(control) as u16,
        header: ip.transport,
        options_len: header_len - HEADER_LEN,
        len: ip.transport_len,
        header_sum,
        checksum: ((u32::from_be(check) >> 16) as u16).to_be(),
        first_fragment: ip.first_fragment,
        tos: ip.tos,
    })
}
