//! The metadata by which XDP tags a packet for the hand-off.

/// The metadata of a packet of a connection that has just proved a cookie.
///
/// It says nothing about the connection on purpose: GRO merges and orders only packets whose metadata are the same
/// (`skb_metadata_differs`, include/linux/skbuff.h), so every segment of a burst must carry the same. The hand-off checks
/// the cookie again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffMetadata {
    /// [`MAGIC`].
    pub magic: u32,
    /// The interface it came in by: at the hand-off it may be on a VLAN device.
    pub ifindex: u32,
}

/// Says that metadata are a [`HandoffMetadata`].
pub const MAGIC: u32 = 0xdef0_7c91;

/// In the place of [`MAGIC`]: the packet is sent round, and comes to generic XDP once more.
pub const SENT_ROUND: u32 = 0xdef0_7c92;
