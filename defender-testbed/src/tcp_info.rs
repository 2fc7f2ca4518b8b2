//! What the kernel knows about a TCP connection.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _},
};

const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 4;
const OPTION_ECN: u8 = 8;

/// What was agreed on in the handshake, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// State, as the kernel numbers them; 1 is ESTABLISHED.
    pub state: u8,
    /// Timestamps are used.
    pub timestamps: bool,
    /// Selective acknowledgements are used.
    pub sack: bool,
    /// Window scaling is used.
    pub window_scaling: bool,
    /// ECN is used.
    pub ecn: bool,
    /// Scale of the windows that the peer announces, in bits.
    pub send_scale: u8,
    /// Scale of the windows that this end announces, in bits.
    pub receive_scale: u8,
    /// Segment size that this end sends, in bytes; timestamps are taken off.
    pub send_mss: u32,
    /// Segment size that the peer seems to send, in bytes.
    pub receive_mss: u32,
    /// MSS that this end announced, in bytes.
    pub advertised_mss: u32,
    /// Path MTU, in bytes.
    pub path_mtu: u32,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// Retransmissions so far.
    pub retransmissions: u32,
    /// The peer's window, in bytes.
    pub send_window: u32,
}

impl TcpInfo {
    /// Asks the kernel about a connected socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let raw = read(socket)?;
        let has = |option| raw.tcpi_options & option != 0;
        Ok(Self {
            state: raw.tcpi_state,
            timestamps: has(OPTION_TIMESTAMPS),
            sack: has(OPTION_SACK),
            window_scaling: has(OPTION_WINDOW_SCALE),
            ecn: has(OPTION_ECN),
            // Two bit fields in one byte, the first in the low bits on little-endian machines.
            send_scale: low_nibble(raw.tcpi_snd_rcv_wscale),
            receive_scale: high_nibble(raw.tcpi_snd_rcv_wscale),
            send_mss: raw.tcpi_snd_mss,
            receive_mss: raw.tcpi_rcv_mss,
            advertised_mss: raw.tcpi_advmss,
            path_mtu: raw.tcpi_pmtu,
            rtt_us: raw.tcpi_rtt,
            retransmissions: raw.tcpi_total_retrans,
            send_window: raw.tcpi_snd_wnd,
        })
    }

    /// Timestamps, SACK and window scaling are all there.
    pub fn has_all_options(&self) -> bool {
        self.timestamps && self.sack && self.window_scaling
    }
}

fn read(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the structure.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure is made of integers and was zeroed, so it is whole even if the kernel's is shorter.
    Ok(unsafe { info.assume_init() })
}

fn low_nibble(byte: u8) -> u8 {
    if cfg!(target_endian = "little") { byte & 0xf } else { byte >> 4 }
}

fn high_nibble(byte: u8) -> u8 {
    if cfg!(target_endian = "little") { byte >> 4 } else { byte & 0xf }
}
