//! What XDP tells the hand-off about a proven connection, in the packet's metadata.

use crate::cookie::Terms;

/// Marks metadata as ours.
pub const MAGIC: u32 = 0xdef0_7c91;

/// `Ticket::flags`: the client scales windows.
pub const SCALES: u8 = 1 << 0;
/// `Ticket::flags`: SACK permitted.
pub const SACK: u8 = 1 << 1;
/// `Ticket::flags`: timestamps.
pub const TIMESTAMPS: u8 = 1 << 2;
/// `Ticket::flags`: ECN.
pub const ECN: u8 = 1 << 3;

/// The terms of a connection whose cookie was accepted; the default is no ticket. 24 bytes of metadata (at most 32 on older kernels).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// [`MAGIC`].
    pub magic: u32,
    /// The client's timestamp.
    pub timestamp: u32,
    /// The timestamp it echoed: ours.
    pub echo: u32,
    /// The service.
    pub service: u32,
    /// The client's MSS.
    pub mss: u16,
    /// The client's window scale.
    pub window_scale: u8,
    /// Ours.
    pub our_window_scale: u8,
    /// Bits as above.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Ticket {
    /// Whether there is one.
    #[inline(always)]
    pub fn is_valid(&self) -> bool {
        self.magic == MAGIC
    }

    /// Writes a ticket; `stamps` are the segment's timestamp and echo.
    #[inline(always)]
    pub fn new(terms: &Terms, stamps: Option<(u32, u32)>, service: u32) -> Self {
        let (timestamp, echo) = stamps.unwrap_or_default();
        let scales = terms.scales();
        Self {
            magic: MAGIC,
            timestamp,
            echo,
            service,
            mss: terms.mss,
            window_scale: if scales { terms.window_scale } else { 0 },
            our_window_scale: if scales { terms.our_window_scale } else { 0 },
            flags: if scales { SCALES } else { 0 }
                | if terms.sack { SACK } else { 0 }
                | if terms.timestamps { TIMESTAMPS } else { 0 }
                | if terms.ecn { ECN } else { 0 },
            reserved: [0; 3],
        }
    }
}
