//! Services: the value of `SERVICES`.

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
    /// The listener's limit of the MSS (`TCP_MAXSEG`), by key slot. 0: the interface's.
    pub mss: [u16; 2],
    /// The MSS that the default route has this host advertise, `[IPv4, IPv6]`; 0: as it takes itself.
    pub advertised: [u16; 2],
    /// The window scale this host offers, by key slot: a change comes with a new key.
    pub window_scale: [u8; 2],
    /// TTL and hop limit of SYN-ACKs, `[IPv4, IPv6]`; 0: the interface's.
    pub ttl: [u8; 2],
    /// Type of service and traffic class of SYN-ACKs, `[IPv4, IPv6]`.
    pub tos: [u8; 2],
    /// The port, for reports.
    pub port: u16,
    /// The address, mapped if IPv4, all zero for a wildcard; for reports.
    pub address: [u8; 16],
    /// `SERVICE_FAMILY_*` bits: the families it listens on.
    pub families: u32,
    /// The device it is bound to; 0: none. For reports.
    pub device: u32,
    /// The levels that start and end mitigation.
    pub triggers: TriggerLimits,
}

/// The value of `SERVICES`, by id.
pub type Services = [Service; SERVICE_SLOTS as usize];

/// The trigger levels of a service's [`crate::mitigation`]. A second is 2³⁰ ns; 0 means that a trigger is not set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TriggerLimits {
    /// Start at so many connections that are half-open for over a second, or at all in a surge.
    pub start: u32,
    /// Start at so many half-open connections, whatever their age.
    pub critical: u32,
    /// End at or below so many half-open and averted connections.
    pub end: u32,
    /// Start at so many SYNs a second, if most of those that had time to complete have not.
    pub rate: u32,
    /// Start at so many out-of-state packets a second.
    pub out_of_state: u32,
    /// SYN-ACKs a second, beyond which only validated sources are answered. 0: no limit.
    pub replies: u32,
    /// The minimum time at a level, in milliseconds.
    pub min_active: u32,
    /// A surge is so many SYNs a second, if most of this second's and the last's are half-open.
    pub flood: u32,
    /// How many listeners share the service's clients (`SO_REUSEPORT`); at least 1. A packet meets one of them, whose queue
    /// stands for all.
    pub listeners: u32,
}

/// `Service::flags`: the kernel cannot take hand-offs for it; SYNs pass.
pub const SERVICE_UNPROTECTABLE: u32 = 1 << 0;
/// `Service::flags`: the slot is in use.
pub const SERVICE_IN_USE: u32 = 1 << 1;
/// `Service::families`: IPv4.
pub const SERVICE_FAMILY_V4: u32 = 1 << 0;
/// `Service::families`: IPv6.
pub const SERVICE_FAMILY_V6: u32 = 1 << 1;
