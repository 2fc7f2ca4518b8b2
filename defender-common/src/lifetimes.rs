//! How long cookies, and what depends on them, live.
//!
//! All times are derived from the key period and from what the kernel does. Datapath and controller take them from here.

use core::time::Duration;

/// How long a key makes cookies. It checks them for as long again.
pub const KEY_PERIOD: Duration = Duration::from_secs(30);

/// How long a key makes cookies at least, where what they promise has changed.
pub const LEAST_KEY_PERIOD: Duration = Duration::from_secs(5);

/// How long a cookie lives at most: it was made at the beginning of its key's period.
pub const COOKIE: Duration = times(KEY_PERIOD, 2);

/// How long a SYN cookie of the kernel's own lives (`MAX_SYNCOOKIE_AGE`, include/net/tcp.h: two periods of 60 s).
pub const KERNEL_COOKIE: Duration = Duration::from_secs(120);

/// How long the kernel keeps a half-open connection by default (`tcp_synack_retries`: 63 s), and a second for late timers.
pub const HALF_OPEN: Duration = Duration::from_secs(64);

/// How long the id of a service that ended is not given to another: twice the life of a cookie, so that nothing made for the
/// one is taken for the other's.
pub const SERVICE_ID_REST: Duration = times(COOKIE, 2);

/// How long at least, where no other id is left: half-open connections are counted by the id of their service.
pub const LEAST_SERVICE_ID_REST: Duration = HALF_OPEN;

/// A lifetime in the milliseconds of the datapath's clock.
pub const fn milliseconds(lifetime: Duration) -> u32 {
    lifetime.as_millis() as u32
}

const fn times(lifetime: Duration, factor: u64) -> Duration {
    Duration::from_secs(lifetime.as_secs() * factor)
}

const _: () = assert!(
    SERVICE_ID_REST.as_secs() >= HALF_OPEN.as_secs(),
    "ids rest longer than connections are half open"
);
const _: () = assert!(LEAST_KEY_PERIOD.as_secs() < KEY_PERIOD.as_secs());
