//! What the datapath tells the controller at once: entries of `EVENTS`.

/// What the datapath tells the controller at once. Rare by construction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `EVENT_*`.
    pub kind: u32,
    /// The service id or, for listeners, the port.
    pub subject: u32,
    /// Of a level: the one before, the one now, and why (8 bits each, from the lowest).
    pub detail: u32,
    /// When, in milliseconds of the datapath's clock.
    pub at: u32,
}

/// `Event::kind`: a TCP socket began to listen.
pub const EVENT_LISTEN_BEGAN: u32 = 1;
/// `Event::kind`: a TCP socket ceased to listen.
pub const EVENT_LISTEN_ENDED: u32 = 2;
/// `Event::kind`: the defence of a service took a level.
pub const EVENT_STEP: u32 = 3;
