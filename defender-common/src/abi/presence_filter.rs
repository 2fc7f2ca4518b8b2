//! Which connections may be in the socket table: the value of `FILTER`.

/// Bytes of the filter: a power of two.
pub const FILTER_LEN: usize = 1 << 18;

/// The bytes of the filter, see [`crate::presence_filter`].
pub type FilterBytes = [u8; FILTER_LEN];
