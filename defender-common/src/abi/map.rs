//! Names of the maps.

/// Array of one [`super::Config`].
pub const CONFIG: &str = "CONFIG";
/// Array of one [`super::Keys`].
pub const KEYS: &str = "KEYS";
/// Array of one [`super::Interfaces`].
pub const INTERFACES: &str = "INTERFACES";
/// LPM trie, prefix of a 16-byte address → `u32` 1: the addresses that are this host's (the local table).
pub const LOCAL: &str = "LOCAL";
/// Array of one [`super::Ports`].
pub const PORTS: &str = "PORTS";
/// Hash, [`super::ServiceKey`] → `u32` service id: services bound to one address.
pub const ADDRESSES: &str = "ADDRESSES";
/// Array of one [`super::Services`]; slot 0 is unused.
pub const SERVICES: &str = "SERVICES";
/// Per-CPU array of [`super::SERVICE_SLOTS`] [`super::ServiceCounters`].
pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
/// Per-CPU array of one [`super::Counters`].
pub const COUNTERS: &str = "COUNTERS";
/// Array of one [`super::ValidCookieBuckets`].
pub const VALID_COOKIES: &str = "VALID_COOKIES";
/// Array of one [`super::BudgetLines`], see [`crate::budget`].
pub const BUDGET: &str = "BUDGET";
/// Array of one [`super::FilterBytes`].
pub const FILTER: &str = "FILTER";
/// Array of [`super::FlowBucket`], a power of two of them: established connections, see [`crate::flow`].
pub const FLOWS: &str = "FLOWS";
/// Array of one [`super::HalfOpenBuckets`]: connections whose SYN passed.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// Array of one [`super::SourcesOfServices`].
pub const SOURCES: &str = "SOURCES";
/// Array of one [`super::TraceLines`].
pub const TRACE: &str = "TRACE";
/// Array of one [`super::Loads`].
pub const LOADS: &str = "LOADS";
/// Array of one [`super::ValidSourceBytes`], see [`crate::validated_sources`].
pub const VALID_SOURCES: &str = "VALID_SOURCES";
/// LPM trie, prefix of a 16-byte address → `u32` `PREFIX_*` bits: sources whose SYNs always pass or never.
pub const PREFIXES: &str = "PREFIXES";
/// Program array of one: what the hand-off calls where there is conntrack, [`super::program::CONNTRACK`].
pub const CONNTRACK: &str = "CONNTRACK";
/// Ring buffer of [`super::Event`].
pub const EVENTS: &str = "EVENTS";

/// Every map, in the order above.
pub const ALL: [&str; 21] = [
    CONFIG,
    KEYS,
    INTERFACES,
    LOCAL,
    PORTS,
    ADDRESSES,
    SERVICES,
    SERVICE_COUNTERS,
    COUNTERS,
    VALID_COOKIES,
    BUDGET,
    FILTER,
    FLOWS,
    HALF_OPEN,
    SOURCES,
    TRACE,
    LOADS,
    VALID_SOURCES,
    PREFIXES,
    CONNTRACK,
    EVENTS,
];
