//! Half-open connections: the value of `HALF_OPEN`.

/// Buckets of `HALF_OPEN`: a power of two.
pub const HALF_OPEN_BUCKETS: u32 = 16_384;
/// Entries of a [`HalfOpenBucket`]: a power of two.
pub const HALF_OPEN_ENTRIES: usize = 4;

/// Four half-open connections in a cache line, see [`crate::half_open`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenBucket {
    /// The connections.
    pub entries: [HalfOpenEntry; HALF_OPEN_ENTRIES],
}

/// The value of `HALF_OPEN`.
pub type HalfOpenBuckets = [HalfOpenBucket; HALF_OPEN_BUCKETS as usize];

/// One connection of a [`HalfOpenBucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenEntry {
    /// Hash of the connection; 0: empty.
    pub tag: u32,
    /// The client's next sequence number.
    pub next_in: u32,
    /// When it began, in units of 2³⁰ ns of the monotonic clock.
    pub began: u32,
    /// The id of its service.
    pub service: u16,
    /// Packets so far, both ways, up to 255.
    pub packets: u8,
    /// Bits of [`crate::half_open`].
    pub flags: u8,
}
