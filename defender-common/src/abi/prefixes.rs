//! The allow and deny lists: values of `PREFIXES`.

/// Value in `PREFIXES`: SYNs from there are never challenged.
pub const PREFIX_ALLOW: u32 = 1 << 0;
/// Value in `PREFIXES`: SYNs from there are dropped, unless the kernel knows their connection.
pub const PREFIX_DENY: u32 = 1 << 1;
/// Value in `PREFIXES`, for the controller: it was read from a file, and goes when it is not there any more.
pub const PREFIX_FROM_FILE: u32 = 1 << 8;
/// Value in `PREFIXES`, for the controller: from there somebody administers this host.
pub const PREFIX_FROM_SESSION: u32 = 1 << 9;
/// Value in `PREFIXES`, for the controller: a comment or a time of expiry is kept with it.
pub const PREFIX_NOTED: u32 = 1 << 10;
/// Value in `PREFIXES`, for the controller: from this bit on, the length of the prefix it belongs to (0 to 128), so that a
/// look-up tells which prefix it found.
pub const PREFIX_LENGTH_SHIFT: u32 = 16;
/// How many prefixes there may be.
pub const MOST_PREFIXES: u32 = 1 << 21;
