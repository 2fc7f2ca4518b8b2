//! TCP frames, byte by byte: [`TcpFrame`] builds what a test sends, [`ParsedFrame`] reads what came back.

mod build;
mod checksum;
mod seen;

pub use build::{Checksum, Extension, IpOptions, TcpFrame};
pub use etherparse::TcpOptionElement as TcpOption;
pub use seen::{ParsedFrame, SumState, TcpOptionsSeen};

pub(crate) use checksum::sum_words;

/// Bits of the TCP flags byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo; in a SYN: ECN set-up.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced; in a SYN: ECN set-up.
    pub const CWR: u8 = 0x80;
}

/// The options of a SYN as Linux sends them: MSS, SACK, timestamps, window scale.
pub fn linux_options(mss: u16, tsval: u32, window_scale: u8) -> Vec<TcpOption> {
    vec![
        TcpOption::MaximumSegmentSize(mss),
        TcpOption::SelectiveAcknowledgementPermitted,
        TcpOption::Timestamp(tsval, 0),
        TcpOption::Noop,
        TcpOption::WindowScale(window_scale),
    ]
}

/// The options of a SYN as Windows sends them: MSS, window scale, SACK, no timestamps.
pub fn windows_options(mss: u16, window_scale: u8) -> Vec<TcpOption> {
    vec![
        TcpOption::MaximumSegmentSize(mss),
        TcpOption::Noop,
        TcpOption::WindowScale(window_scale),
        TcpOption::Noop,
        TcpOption::Noop,
        TcpOption::SelectiveAcknowledgementPermitted,
    ]
}

/// The options of every segment of a connection with timestamps.
pub fn timestamp_options(tsval: u32, tsecr: u32) -> Vec<TcpOption> {
    vec![TcpOption::Noop, TcpOption::Noop, TcpOption::Timestamp(tsval, tsecr)]
}
