//! The last verdicts on each peer: the value of `TRACE`.

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
