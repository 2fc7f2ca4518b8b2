//! Connections whose cookie was valid a moment ago: the value of `VALID_COOKIES`.

/// Buckets of `VALID_COOKIES`: a power of two.
pub const VALID_COOKIE_BUCKETS: u32 = 16_384;

/// One cache line of connections whose cookie was accepted a moment ago, see [`crate::validated_cookies`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValidCookieBucket {
    /// Eight connections.
    pub entries: [ValidCookie; 8],
}

/// The value of `VALID_COOKIES`.
pub type ValidCookieBuckets = [ValidCookieBucket; VALID_COOKIE_BUCKETS as usize];

/// One connection in a [`ValidCookieBucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValidCookie {
    /// Hash of the connection; 0: empty.
    pub tag: u32,
    /// When, in milliseconds of the monotonic clock, wrapping.
    pub at: u32,
}
