//! Load and mitigation level of each service: the value of `LOADS`.

use super::SERVICE_SLOTS;

/// Age buckets of a [`Load`]: a power of two.
pub const AGE_BUCKETS: usize = 64;
/// Seconds that a [`Load`] counts arrivals of: a power of two.
pub const SECONDS: usize = 4;

/// The load on a service and its mitigation level, see [`crate::load`]. Only the datapath writes it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The level ([`crate::load::MitigationState`]).
    pub mitigation: u64,
    /// When challenges last began, in milliseconds of the datapath's clock.
    pub began: u32,
    /// When a SYN was last answered with a cookie, in milliseconds, to within a second. 0: no cookie may be on its way.
    pub cookie_sent: u32,
    /// When a SYN last passed because the service was not challenged, likewise: the kernel may have answered it with a cookie of
    /// its own. 0: not known.
    pub unchallenged_syn: u32,
    /// How many connections were half open when challenges last began.
    pub half_open_then: u32,
    /// Zero.
    pub reserved: [u32; 8],
    /// The second that the rest is of; what follows is written by every SYN.
    pub second: u64,
    /// The listener's queues when they were last read ([`crate::queue::Queue::pack`]).
    pub queue: u64,
    /// Connections whose SYN was answered with a cookie, or dropped, and that would be half open had it passed.
    pub averted: u64,
    /// SYNs (low half) and out-of-state packets (high half), by second.
    pub arrivals: [u64; SECONDS],
    /// SYNs that passed and may not be in the listener's queue yet (low half), in the two newest periods of
    /// [`crate::load::PERIOD_BITS`]; the period is in the high half.
    pub passing: [u64; 2],
    /// Connections in the listener's queue that were older than a second when each of the last seconds began.
    pub aged: [u32; SECONDS],
    /// SYNs that were answered, or would have been but for the reply limit, by second.
    pub replies: [u64; SECONDS],
    /// Zero.
    pub reserved_too: [u64; 2],
    /// Averted connections, by the second they began in.
    pub averted_by_age: [u64; AGE_BUCKETS],
}

/// The value of `LOADS`, by the services' ids.
pub type Loads = [Load; SERVICE_SLOTS as usize];

impl Load {
    /// No load.
    pub const EMPTY: Self = Self {
        mitigation: 0,
        began: 0,
        cookie_sent: 0,
        unchallenged_syn: 0,
        half_open_then: 0,
        reserved: [0; 8],
        second: 0,
        queue: 0,
        averted: 0,
        arrivals: [0; SECONDS],
        passing: [0; 2],
        aged: [0; SECONDS],
        replies: [0; SECONDS],
        reserved_too: [0; 2],
        averted_by_age: [0; AGE_BUCKETS],
    };
}

impl Default for Load {
    fn default() -> Self {
        Self::EMPTY
    }
}
