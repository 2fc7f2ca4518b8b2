//! Established connections: values of `FLOWS`, and lines of their listing.

/// Entries of a [`FlowBucket`]: a power of two.
pub const FLOW_ENTRIES: usize = 8;

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
