//! Which service listens on an address and port: values of `PORTS`, keys of `ADDRESSES`.

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
