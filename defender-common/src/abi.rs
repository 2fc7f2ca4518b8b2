//! The maps that the eBPF programs and the controller share, and their layouts.
//!
//! Every type is `repr(C)` without padding, and holds nothing but integers and arrays of them, so that any bytes are a
//! valid value. Addresses are 16 bytes in network order; IPv4 is mapped (`::ffff:a.b.c.d`). Ports are in host order.
//! A change to any layout raises [`ABI_VERSION`]; the controller refuses pinned maps of another version.

use crate::{siphash, verdict::Reason, wire::address::V4};

/// Version of everything in this module; held in [`Config::abi_version`].
pub const ABI_VERSION: u32 = 7;

/// Names of the maps.
pub mod map {
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
    /// Array of [`super::SERVICE_SLOTS`] [`super::Learnt`].
    pub const LEARNT: &str = "LEARNT";
    /// Per-CPU array of [`super::SERVICE_SLOTS`] [`super::ServiceCounters`].
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// Per-CPU array of one [`super::Counters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Array of one [`super::RecentBuckets`].
    pub const RECENT: &str = "RECENT";
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
    /// Array of one [`super::KnownBytes`], see [`crate::known`].
    pub const KNOWN: &str = "KNOWN";
    /// LPM trie, prefix of a 16-byte address → `u32` `PREFIX_*` bits: sources whose SYNs always pass or never.
    pub const PREFIXES: &str = "PREFIXES";
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
        LEARNT,
        SERVICE_COUNTERS,
        COUNTERS,
        RECENT,
        BUDGET,
        FILTER,
        FLOWS,
        HALF_OPEN,
        SOURCES,
        TRACE,
        LOADS,
        KNOWN,
        PREFIXES,
        EVENTS,
    ];
}

/// Names of the programs.
pub mod program {
    /// XDP, on every defended interface.
    pub const XDP: &str = "defender_xdp";
    /// tcx ingress, on every defended interface and the VLAN devices on it: the hand-off of proven connections.
    pub const HANDOFF: &str = "defender_handoff";
    /// tcx egress, on every defended interface: learns from the kernel's own SYN-ACKs.
    pub const EGRESS: &str = "defender_egress";
    /// BTF tracepoint `inet_sock_set_state`, once: listeners that come and go, handed-over connections established.
    pub const SOCK_STATE: &str = "defender_sock_state";
    /// Iterator over TCP sockets, run by the controller: fills the filter, confirms flows.
    pub const SOCKETS: &str = "defender_sockets";
    /// Iterator over TCP sockets, pinned for whoever asks: lists the connections to services as [`super::Listed`].
    pub const FLOWS: &str = "defender_flows";
}

/// Kernel functions that programs call; each is called through its own sentinel immediate until the loader has put the
/// BTF id of the function in (see `defender-ebpf/src/kfunc.rs`).
pub mod kfunc {
    /// `bpf_sk_assign_tcp_reqsk`, kernel 6.9 (`net/core/filter.c`).
    pub const ASSIGN_REQSK: &str = "bpf_sk_assign_tcp_reqsk";
    /// The immediate that stands for it in the object file; no helper has that number.
    pub const ASSIGN_REQSK_SENTINEL: i32 = 0x7dfd_0001;
}

/// Maps of one value that programs read in place: the address of the value is part of their code, so that there is no
/// look-up. Each has a number that stands for the address until the loader has put that in (see
/// `defender-ebpf/src/maps.rs`).
pub mod in_place {
    /// Stands for the address of the value of [`super::map::CONFIG`].
    pub const CONFIG: u64 = 0x7dfd_0011_7dfd_0012;
    /// Stands for the address of the value of [`super::map::KEYS`].
    pub const KEYS: u64 = 0x7dfd_0021_7dfd_0022;
    /// Stands for the address of the value of [`super::map::INTERFACES`].
    pub const INTERFACES: u64 = 0x7dfd_0031_7dfd_0032;
    /// Stands for the address of the value of [`super::map::FILTER`].
    pub const FILTER: u64 = 0x7dfd_0041_7dfd_0042;
    /// Stands for the address of the value of [`super::map::PORTS`].
    pub const PORTS: u64 = 0x7dfd_0051_7dfd_0052;
    /// Stands for the address of the value of [`super::map::SERVICES`].
    pub const SERVICES: u64 = 0x7dfd_0061_7dfd_0062;
    /// Stands for the address of the value of [`super::map::LOADS`].
    pub const LOADS: u64 = 0x7dfd_0071_7dfd_0072;
    /// Stands for the address of the value of [`super::map::SOURCES`].
    pub const SOURCES: u64 = 0x7dfd_0081_7dfd_0082;
    /// Stands for the address of the value of [`super::map::BUDGET`].
    pub const BUDGET: u64 = 0x7dfd_0091_7dfd_0092;
    /// Stands for the address of the value of [`super::map::RECENT`].
    pub const RECENT: u64 = 0x7dfd_00a1_7dfd_00a2;
    /// Stands for the address of the value of [`super::map::TRACE`].
    pub const TRACE: u64 = 0x7dfd_00b1_7dfd_00b2;
    /// Stands for the address of the value of [`super::map::HALF_OPEN`].
    pub const HALF_OPEN: u64 = 0x7dfd_00c1_7dfd_00c2;
    /// Stands for the address of the value of [`super::map::KNOWN`].
    pub const KNOWN: u64 = 0x7dfd_00d1_7dfd_00d2;

    /// Each map and its number.
    pub const ALL: [(&str, u64); 13] = [
        (super::map::CONFIG, CONFIG),
        (super::map::KEYS, KEYS),
        (super::map::INTERFACES, INTERFACES),
        (super::map::FILTER, FILTER),
        (super::map::PORTS, PORTS),
        (super::map::SERVICES, SERVICES),
        (super::map::LOADS, LOADS),
        (super::map::SOURCES, SOURCES),
        (super::map::BUDGET, BUDGET),
        (super::map::RECENT, RECENT),
        (super::map::TRACE, TRACE),
        (super::map::HALF_OPEN, HALF_OPEN),
        (super::map::KNOWN, KNOWN),
    ];
}

/// Settings of the whole datapath.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of who filled the maps.
    pub abi_version: u32,
    /// The slot of `KEYS` that new cookies are made with: 0 or 1.
    pub key_current: u32,
    /// `CONFIG_*` bits.
    pub flags: u32,
    /// SYN-ACKs a second that one source prefix (/24, /64) is answered at most; 0: no limit.
    pub reply_budget: u32,
    /// Secret of the timestamp offsets and of the reply budget; drawn once, never rotated.
    pub secret: [u64; 2],
    /// Keys of the hashes by which tables are ordered, and of which timestamp offsets are made; drawn once, never rotated.
    pub table_keys: TableKeys,
    /// The filter's newest generation, which is written; the lowest seven bits count.
    pub filter_newest: u32,
    /// The oldest generation that counts as present.
    pub filter_oldest: u32,
    /// Until when the filter may stand in for the socket table, in milliseconds of the datapath's clock; 0: not at all.
    /// The controller moves it on as long as it keeps the filter and the services true.
    pub filter_until: u32,
    /// Where `struct sock` has `sk_ack_backlog` and `sk_max_ack_backlog`, in bytes: the length and the limit of a
    /// listener's accept queue. 0: not known, and queues are taken not to be full.
    pub ack_backlog_offset: u16,
    /// See [`Self::ack_backlog_offset`].
    pub max_ack_backlog_offset: u16,
    /// Where `struct inet_timewait_sock` has `tw_substate`, in bytes; 0: not known, and all are in TIME_WAIT.
    pub substate_offset: u16,
    /// Where `struct inet_sock` has `inet_sport`, in bytes: a socket's own port, which stays when the socket gives it back.
    pub source_port_offset: u16,
    /// The number of buckets of `FLOWS` less one.
    pub flow_mask: u32,
    /// The network namespace that is defended, as `/proc/PID/ns/net` numbers it; 0: not known, and all are heard of.
    pub namespace: u32,
    /// Where `struct net` has that number, in bytes.
    pub namespace_offset: u32,
    /// For how many cohorts the kernel keeps a half-open connection (`net.ipv4.tcp_synack_retries`), see [`crate::load`].
    pub cohorts: u32,
    /// Where `struct tcp_sock` has `segs_in` and `segs_out`, in bytes: how many segments a socket has received and sent.
    pub segments_in_offset: u16,
    /// See [`Self::segments_in_offset`].
    pub segments_out_offset: u16,
    /// Where `struct sock` has `sk_protocol`, in bytes.
    pub protocol_offset: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// Keys of the hashes by which tables are ordered: one for each word of a connection ([`crate::wire::address::Flow::mix`]).
pub type TableKeys = [u64; 9];

/// `Config::flags`: nothing is challenged (tcp_syncookies is 0).
pub const CONFIG_SUSPENDED: u32 = 1 << 0;
/// `Config::flags`: net.ipv4.tcp_timestamps is not 0.
pub const CONFIG_TIMESTAMPS: u32 = 1 << 1;
/// `Config::flags`: net.ipv4.tcp_sack is not 0.
pub const CONFIG_SACK: u32 = 1 << 2;
/// `Config::flags`: net.ipv4.tcp_window_scaling is not 0.
pub const CONFIG_WINDOW_SCALING: u32 = 1 << 3;
/// `Config::flags`: net.ipv4.tcp_ecn accepts ECN that a client asks for (1 or 2).
pub const CONFIG_ECN: u32 = 1 << 4;
/// `Config::flags`: there are prefixes in `PREFIXES`.
pub const CONFIG_PREFIXES: u32 = 1 << 5;

/// Value in `PREFIXES`: SYNs from there are never challenged.
pub const PREFIX_ALLOW: u32 = 1 << 0;
/// Value in `PREFIXES`: SYNs from there are dropped, unless the kernel knows their connection.
pub const PREFIX_DENY: u32 = 1 << 1;
/// Value in `PREFIXES`, for the controller: it was read from a file, and goes when it is not there any more.
pub const PREFIX_FROM_FILE: u32 = 1 << 8;
/// Value in `PREFIXES`, for the controller: from there somebody administers this host.
pub const PREFIX_FROM_SESSION: u32 = 1 << 9;
/// Value in `PREFIXES`, for the controller: from this bit on, the length of the prefix it belongs to (0 to 128), so that a
/// look-up tells which prefix it found.
pub const PREFIX_LENGTH_SHIFT: u32 = 16;
/// How many prefixes there may be.
pub const MOST_PREFIXES: u32 = 1 << 21;

/// A cookie key. The current slot makes cookies, both check them; the controller refills the other slot from the
/// kernel's random source and then makes it the current one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySlot {
    /// The SipHash key, as [`siphash::begun`] makes it ready.
    pub begun: [u64; 4],
    /// Counts rotations; part of what is hashed.
    pub epoch: u32,
    /// 0 before the slot is filled: then no cookie is made or accepted with it.
    pub filled: u32,
}

impl KeySlot {
    /// A slot with a key of the SipHash.
    pub const fn new(key: [u64; 2], epoch: u32) -> Self {
        Self { begun: siphash::begun(key), epoch, filled: 1 }
    }
}

/// Both cookie keys.
pub type Keys = [KeySlot; 2];

/// Slots of `INTERFACES`.
pub const INTERFACE_SLOTS: u32 = 64;
/// How many neighbouring slots an interface may be in.
pub const INTERFACE_PROBES: u32 = 4;

/// The `probe`-th slot (0 .. [`INTERFACE_PROBES`]) to look for an interface in.
#[inline(always)]
pub const fn interface_slot(ifindex: u32, probe: u32) -> u32 {
    (ifindex.wrapping_add(probe)) % INTERFACE_SLOTS
}

/// A defended interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its index; 0: the slot is empty.
    pub ifindex: u32,
    /// `INTERFACE_*` bits.
    pub flags: u32,
    /// Its MAC address, as [`mac`] puts it. All zero where the device has none.
    pub mac: u64,
    /// The MSS of the interface's MTU (MTU − 40), IPv4.
    pub mss4: u16,
    /// The MSS of the interface's MTU (MTU − 60), IPv6.
    pub mss6: u16,
    /// net.ipv4.ip_default_ttl.
    pub ttl: u8,
    /// net.ipv6.conf.IF.hop_limit.
    pub hop_limit: u8,
    /// How many VLAN tags a SYN may have to be challenged: 1, or 2 where the hand-off is on a VLAN device too.
    pub max_vlan_tags: u8,
    /// Zero.
    pub reserved: u8,
    /// Up to four of this host's IPv4 addresses, to be tried before `LOCAL`; 0: none.
    pub local4: [V4; 4],
    /// Likewise two IPv6 addresses, each as its halves ([`Address::halves`](crate::wire::address::Address::halves)).
    pub local6: [[u64; 2]; 2],
}

/// All defended interfaces, see [`interface_slot`].
pub type Interfaces = [Interface; INTERFACE_SLOTS as usize];

/// `Interface::flags`: the driver delivers frames whose TCP checksum holds the pseudo-header sum alone (veth and kin).
pub const INTERFACE_PARTIAL_CHECKSUMS: u32 = 1 << 0;
/// `Interface::flags`, set by the datapath: the driver cannot carry metadata, so the hand-off checks cookies again.
pub const INTERFACE_NO_METADATA: u32 = 1 << 1;
/// `Interface::flags`: `local4` and `local6` hold every address of this host, so `LOCAL` need not be asked.
pub const INTERFACE_LOCAL_COMPLETE: u32 = 1 << 2;

/// The services of one port. An id of 0 means none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Service of `0.0.0.0`, or of a dual-stack `[::]`.
    pub wildcard4: u16,
    /// Service of `[::]`.
    pub wildcard6: u16,
    /// How many services are bound to an address of theirs. One is here; if there are more, look into `ADDRESSES`.
    pub bound: u16,
    /// The one bound service.
    pub bound_id: u16,
    /// Its address, mapped if IPv4, as it lies in memory.
    pub bound_address: [u32; 4],
}

/// The value of `PORTS`: that of each port.
pub type Ports = [Port; 1 << 16];

/// Key of `ADDRESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceKey {
    /// The address, mapped if IPv4.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

/// Slots of `SERVICES`; ids are 1 .. this.
pub const SERVICE_SLOTS: u32 = 1024;

/// `Service::mode`: packets pass untouched and unwatched.
pub const MODE_OFF: u32 = 0;
/// `Service::mode`: watch and count, never touch.
pub const MODE_MONITOR: u32 = 1;
/// `Service::mode`: challenge under attack.
pub const MODE_AUTO: u32 = 2;
/// `Service::mode`: challenge every SYN.
pub const MODE_ALWAYS: u32 = 3;

/// A listening service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `MODE_*`.
    pub mode: u32,
    /// `SERVICE_*` bits.
    pub flags: u32,
    /// The window of SYN-ACKs: `[IPv4, IPv6][without, with timestamps]`, in bytes.
    pub window: [[u16; 2]; 2],
    /// MSS learnt from the kernel's SYN-ACKs, `[IPv4, IPv6]`; 0: the interface's.
    pub mss: [u16; 2],
    /// The window scale this host offers, by key slot: a change of scale comes with a new key.
    pub window_scale: [u8; 2],
    /// The port, for reports.
    pub port: u16,
    /// The address, mapped if IPv4, all zero for a wildcard; for reports.
    pub address: [u8; 16],
    /// `SERVICE_FAMILY_*` bits: the families it listens on.
    pub families: u32,
    /// The device it is bound to; 0: none. For reports.
    pub device: u32,
    /// Where its ladder goes up and down.
    pub lines: Lines,
}

/// The value of `SERVICES`, by id.
pub type Services = [Service; SERVICE_SLOTS as usize];

/// Where the [`crate::ladder`] of a service goes up and down. A second is 2³⁰ ns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Up: so many connections have been half open for more than a second, or at all in a flood. 0: no such line.
    pub up: u32,
    /// Up: so many connections are half open. 0: no such line.
    pub danger: u32,
    /// Down: no more connections are half open than this.
    pub down: u32,
    /// Up: so many SYNs a second, if most of those that had time to go on have not. 0: no such line.
    pub rate: u32,
    /// Up: so many packets a second that belong to no connection. 0: no such line.
    pub strays: u32,
    /// SYN-ACKs a second, beyond which only known sources are answered. 0: no limit.
    pub replies: u32,
    /// For how long a step is kept at least, in milliseconds.
    pub min_active: u32,
    /// A flood: so many SYNs a second, if most of this second's and the last's are half open. 0: no such line.
    pub flood: u32,
}

/// Cohorts of a [`Load`]: a power of two.
pub const COHORTS: usize = 64;
/// Seconds that a [`Load`] counts arrivals of: a power of two.
pub const SECONDS: usize = 4;

/// How much a service has to bear, and what is done about it, see [`crate::load`]. Written by the datapath alone.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The step ([`crate::load::Posture`]).
    pub posture: u64,
    /// When challenges last began, in milliseconds of the datapath's clock.
    pub began: u32,
    /// Until when cookies are accepted although none are sent; 0: they are not.
    pub accepts_until: u32,
    /// How many connections were half open when challenges last began.
    pub half_open_then: u32,
    /// Zero.
    pub reserved: [u32; 9],
    /// The second that the rest is of; what follows is written by every SYN.
    pub second: u64,
    /// Connections whose SYN passed and that are half open: the listener's queue holds them.
    pub held: u64,
    /// Connections whose SYN was answered with a cookie, or dropped, and that would be half open had it passed.
    pub spared: u64,
    /// SYNs (low half) and packets of no connection (high half), by second.
    pub arrivals: [u64; SECONDS],
    /// Zero.
    pub reserved_too: u64,
    /// Connections that are held, by the second they began in.
    pub held_cohorts: [u64; COHORTS],
    /// Connections that are spared, likewise.
    pub spared_cohorts: [u64; COHORTS],
}

/// The value of `LOADS`, by the services' ids.
pub type Loads = [Load; SERVICE_SLOTS as usize];

impl Load {
    /// Nothing to bear.
    pub const EMPTY: Self = Self {
        posture: 0,
        began: 0,
        accepts_until: 0,
        half_open_then: 0,
        reserved: [0; 9],
        second: 0,
        held: 0,
        spared: 0,
        arrivals: [0; SECONDS],
        reserved_too: 0,
        held_cohorts: [0; COHORTS],
        spared_cohorts: [0; COHORTS],
    };
}

impl Default for Load {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Bytes of `KNOWN`: a power of two.
pub const KNOWN_LEN: usize = 1 << 18;
/// The value of `KNOWN`.
pub type KnownBytes = [u8; KNOWN_LEN];

/// `Service::flags`: the kernel cannot take hand-offs for it; SYNs pass.
pub const SERVICE_UNPROTECTABLE: u32 = 1 << 0;
/// `Service::flags`: whatever the mode, valid cookies are accepted: some may still be on their way.
pub const SERVICE_ACCEPTS_COOKIES: u32 = 1 << 1;
/// `Service::flags`: the slot is in use.
pub const SERVICE_IN_USE: u32 = 1 << 2;
/// `Service::flags`: it is challenged only since a moment ago: cookies of the kernel's own may still be on their way.
pub const SERVICE_KERNEL_COOKIES: u32 = 1 << 3;

/// `Service::families`: IPv4.
pub const SERVICE_FAMILY_V4: u32 = 1 << 0;
/// `Service::families`: IPv6.
pub const SERVICE_FAMILY_V6: u32 = 1 << 1;

/// What the egress program saw in the kernel's own SYN-ACKs of a service. Zero: not seen yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// The window, as [`Service::window`].
    pub window: [[u16; 2]; 2],
    /// The MSS, `[IPv4, IPv6]`.
    pub mss: [u16; 2],
    /// The window scale plus one; 0: not seen.
    pub window_scale_plus_one: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Counters of one service, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// SYNs that arrived.
    pub syn_received: u64,
    /// SYNs answered with a cookie.
    pub syn_challenged: u64,
    /// Valid cookies.
    pub ack_accepted: u64,
    /// Invalid cookies.
    pub ack_rejected: u64,
    /// Connections assigned to the listener.
    pub handoff_assigned: u64,
    /// Refusals of the kernel.
    pub handoff_failed: u64,
    /// Connections that reached ESTABLISHED, however they were admitted.
    pub established: u64,
    /// SYNs that passed in mode `monitor` and would have been challenged in `auto`.
    pub syn_would_challenge: u64,
    /// Connections that reached ESTABLISHED after such a SYN: real clients.
    pub client_would_challenge: u64,
    /// Packets that belong to no connection, but for RSTs: ACKs, mostly. Dropped if SYNs are challenged.
    pub stray_acks: u64,
    /// RSTs that belong to no connection, likewise.
    pub stray_rsts: u64,
    /// SYNs dropped: beyond the reply limit, or from sources that are not known.
    pub syn_limited: u64,
}

/// All counters of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets by [`Reason`]; their sum is the number of packets received.
    pub verdicts: [u64; Reason::COUNT],
    /// Counts of the hand-off, by [`Handoff`].
    pub handoff: [u64; Handoff::COUNT],
    /// Counts of the flow table, by [`Tracked`].
    pub tracked: [u64; Tracked::COUNT],
    /// Look-ups of strangers in the socket table in this second, a cell as [`crate::budget::charge`] has it.
    pub looked_up: u32,
    /// Verdicts on unproven peers noted in this second, likewise.
    pub noted: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            verdicts: [0; Reason::COUNT],
            handoff: [0; Handoff::COUNT],
            tracked: [0; Tracked::COUNT],
            looked_up: 0,
            noted: 0,
        }
    }
}

/// What became of a proven connection; the discriminant is its index in [`Counters::handoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Handoff {
    /// Assigned to its listener.
    Assigned,
    /// The connection's socket was seen to reach ESTABLISHED.
    Established,
    /// Not assigned again: an earlier segment of the same connection was, a moment ago.
    Repeated,
    /// The listener had gone when the packet reached it.
    NoListener,
    /// The connection's socket was there already.
    AlreadyKnown,
    /// The kernel refused with EINVAL.
    RefusedInvalid,
    /// The kernel refused with ENETUNREACH: a listener of another network namespace.
    RefusedNamespace,
    /// The kernel refused with ENOMEM.
    RefusedMemory,
    /// The kernel refused with another error.
    RefusedOther,
    /// The packet could not be read again at the hand-off.
    Unreadable,
    /// The packet was dropped, as the kernel does: the listener's accept queue is full. The client sends it again.
    QueueFull,
}

impl Handoff {
    /// Every outcome, in the order of the counters.
    pub const ALL: [Self; 11] = [
        Self::Assigned,
        Self::Established,
        Self::Repeated,
        Self::NoListener,
        Self::AlreadyKnown,
        Self::RefusedInvalid,
        Self::RefusedNamespace,
        Self::RefusedMemory,
        Self::RefusedOther,
        Self::Unreadable,
        Self::QueueFull,
    ];
    /// How many outcomes there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter's name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assigned => "handoff_assigned",
            Self::Established => "handoff_established",
            Self::Repeated => "handoff_repeated",
            Self::NoListener => "handoff_no_listener",
            Self::AlreadyKnown => "handoff_already_known",
            Self::RefusedInvalid => "handoff_refused_invalid",
            Self::RefusedNamespace => "handoff_refused_namespace",
            Self::RefusedMemory => "handoff_refused_memory",
            Self::RefusedOther => "handoff_refused_other",
            Self::Unreadable => "handoff_unreadable",
            Self::QueueFull => "handoff_queue_full",
        }
    }

    /// Whether this is a connection that was proven and yet not handed over.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::NoListener
                | Self::RefusedInvalid
                | Self::RefusedNamespace
                | Self::RefusedMemory
                | Self::RefusedOther
                | Self::Unreadable
        )
    }
}

/// What happened in the flow table; the discriminant is its index in [`Counters::tracked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tracked {
    /// A SYN passed and opened a connection.
    Opened,
    /// A half-open connection was pushed out by a newer one; the kernel may still have it.
    PushedOut,
    /// A connection reached ESTABLISHED.
    Established,
    /// An established connection found no room; the kernel has it nevertheless.
    NoRoom,
    /// A connection ended.
    Ended,
}

impl Tracked {
    /// All, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Opened, Self::PushedOut, Self::Established, Self::NoRoom, Self::Ended];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter's name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "flows_opened",
            Self::PushedOut => "flows_pushed_out",
            Self::Established => "flows_established",
            Self::NoRoom => "flows_no_room",
            Self::Ended => "flows_ended",
        }
    }
}

/// Entries of a [`FlowBucket`]: a power of two.
pub const FLOW_ENTRIES: usize = 8;
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

/// Eight connections in four cache lines, see [`crate::flow`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowBucket {
    /// What tells whether a connection is there, in one cache line.
    pub hot: [FlowHot; FLOW_ENTRIES],
    /// What only the beginning and the end of a connection need.
    pub cold: [FlowCold; FLOW_ENTRIES],
}

/// One connection of a [`FlowBucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHot {
    /// Hash of the connection; 0: empty.
    pub tag: u32,
    /// The kernel's number of the state that the packets led to.
    pub state: u8,
    /// `tcp_state`'s flags, and one of [`crate::flow`].
    pub flags: u8,
    /// [`crate::flow::Admitted`].
    pub admitted: u8,
    /// The filter's generation in which the kernel was last known to have it.
    pub generation: u8,
}

/// The other half of a connection of a [`FlowBucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCold {
    /// When it was first seen, in units of 2³⁰ ns of the monotonic clock.
    pub began: u32,
    /// When its state began, in milliseconds of that clock, wrapping.
    pub since: u32,
    /// Packets so far, both ways, less those that its socket has counted, wrapping; see [`crate::flow`].
    pub packets: u32,
    /// The client's next sequence number.
    pub next_in: u32,
    /// The sequence number after the client's FIN.
    pub fin_in: u32,
    /// The sequence number after this host's FIN.
    pub fin_out: u32,
}

/// One line of the listing of connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The client's address.
    pub remote: [u8; 16],
    /// This host's address.
    pub local: [u8; 16],
    /// The client's port.
    pub remote_port: u16,
    /// The service's port.
    pub local_port: u16,
    /// The id of its service.
    pub service: u32,
    /// The kernel's state.
    pub state: u8,
    /// The state that the packets led to; 0: not tracked. The rest is zero then, too.
    pub wire_state: u8,
    /// [`crate::flow::Admitted`].
    pub admitted: u8,
    /// Zero.
    pub reserved: u8,
    /// Packets so far, both ways.
    pub packets: u32,
    /// See [`FlowCold::began`].
    pub began: u32,
}

/// Buckets of `RECENT`: a power of two.
pub const RECENT_BUCKETS: u32 = 16_384;

/// One cache line of connections whose cookie was accepted a moment ago, see [`crate::recent`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentBucket {
    /// Eight connections.
    pub entries: [RecentEntry; 8],
}

/// The value of `RECENT`.
pub type RecentBuckets = [RecentBucket; RECENT_BUCKETS as usize];

/// One connection in a [`RecentBucket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentEntry {
    /// Hash of the connection; 0: empty.
    pub tag: u32,
    /// When, in milliseconds of the monotonic clock, wrapping.
    pub at: u32,
}

/// Lines of `BUDGET`: a power of two.
pub const BUDGET_LINES: u32 = 8_192;
/// Cells of a line: a power of two.
pub const BUDGET_CELLS: usize = 16;

/// One cache line of counts, see [`crate::budget`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLine(pub [u32; BUDGET_CELLS]);

/// The value of `BUDGET`.
pub type BudgetLines = [BudgetLine; BUDGET_LINES as usize];

/// Bytes of the filter: a power of two.
pub const FILTER_LEN: usize = 1 << 18;
/// The bytes of the filter, see [`crate::filter`].
pub type FilterBytes = [u8; FILTER_LEN];

/// Registers of one bank of [`Sources`]: a power of two.
pub const SOURCE_REGISTERS: usize = 512;
/// Samples of [`Sources`]: a power of two.
pub const SOURCE_SAMPLES: usize = 64;

/// Who sends SYNs to a service, see [`crate::sources`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Two banks, of even and of odd windows. A register holds bits of its window's number above six bits of rank; a
    /// rank of 0: empty.
    pub registers: [[u16; SOURCE_REGISTERS]; 2],
    /// Some of the sources.
    pub samples: [SourceSample; SOURCE_SAMPLES],
}

/// The value of `SOURCES`, by the services' ids.
pub type SourcesOfServices = [Sources; SERVICE_SLOTS as usize];

impl Default for Sources {
    fn default() -> Self {
        Self { registers: [[0; SOURCE_REGISTERS]; 2], samples: [SourceSample::default(); SOURCE_SAMPLES] }
    }
}

/// One source in [`Sources`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSample {
    /// Its address, mapped if IPv4.
    pub address: [u8; 16],
    /// When it sent a SYN, in milliseconds of the datapath's clock; 0: never.
    pub at: u32,
    /// Zero.
    pub reserved: u32,
}

/// Lines of the trace: a power of two.
pub const TRACE_LINES: u32 = 8192;

/// One cache line of the last verdicts about some peers, see [`crate::trace`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceLine {
    /// Two of proven packets, then two of packets that anybody can send.
    pub entries: [TraceEntry; 4],
}

/// The value of `TRACE`.
pub type TraceLines = [TraceLine; TRACE_LINES as usize];

/// A verdict in a [`TraceLine`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceEntry {
    /// Hash of the peer's address; 0: empty.
    pub tag: u32,
    /// When it was last given, in milliseconds of the datapath's clock.
    pub at: u32,
    /// Index of the [`Reason`], see [`Reason::from_index`].
    pub reason: u16,
    /// The service's port.
    pub port: u16,
    /// How many packets got it, in a row without a minute's pause.
    pub count: u32,
}

/// What the datapath tells the controller at once. Rare by construction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `EVENT_*`.
    pub kind: u32,
    /// The service id or, for listeners, the port.
    pub subject: u32,
    /// Of a step: the one before, the one now, and why (8 bits each, from the lowest).
    pub detail: u32,
    /// When, in milliseconds of the datapath's clock.
    pub at: u32,
}

/// `Event::kind`: a TCP socket began to listen.
pub const EVENT_LISTEN_BEGAN: u32 = 1;
/// `Event::kind`: a TCP socket ceased to listen.
pub const EVENT_LISTEN_ENDED: u32 = 2;
/// `Event::kind`: the defence of a service took a step.
pub const EVENT_STEP: u32 = 3;

/// A MAC address in a word, as a frame begins with it ([`crate::wire::Packet::pairs`]), what follows it being zero.
pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    let [first, second] = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])];
    first as u64 | (second as u64) << 32
}

/// Sixteen bytes as words, as they lie in memory.
pub const fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// An IPv4 address as the maps hold it.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Types that may be read from and written to maps as plain bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and any bytes are a valid value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($name:ty: $size:literal,)+) => {
        $(
            // SAFETY: integers and arrays of integers only, repr(C), and the size is the sum of the fields' sizes.
            unsafe impl Plain for $name {}
            const _: () = assert!(size_of::<$name>() == $size);
        )+
    };
}

plain! {
    u32: 4,
    u8: 1,
    Config: 152,
    Keys: 80,
    Interface: 72,
    Interfaces: 4608,
    FilterBytes: 262144,
    Port: 24,
    ServiceKey: 20,
    Service: 80,
    Learnt: 16,
    ServiceCounters: 96,
    Load: 1152,
    HalfOpenBucket: 64,
    RecentBucket: 64,
    BudgetLine: 64,
    FlowBucket: 256,
    Listed: 52,
    Sources: 3584,
    TraceLine: 64,
    Event: 16,
}
// SAFETY: arrays of u64, and two u32 that make one.
unsafe impl Plain for Counters {}
