//! Sources that completed a handshake not long ago: the value of `VALID_SOURCES`.

/// Bytes of `VALID_SOURCES`: a power of two.
pub const VALID_SOURCES_LEN: usize = 1 << 18;

/// The value of `VALID_SOURCES`.
pub type ValidSourceBytes = [u8; VALID_SOURCES_LEN];
