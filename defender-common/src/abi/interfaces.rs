//! Defended interfaces: the value of `INTERFACES`.

use crate::wire::address::V4;

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
    /// The MSS of the default route's MTU or else the interface's (MTU − 40), IPv4.
    pub mss4: u16,
    /// Likewise (MTU − 60), IPv6.
    pub mss6: u16,
    /// TTL: the default route's, or net.ipv4.ip_default_ttl.
    pub ttl: u8,
    /// Hop limit: the default route's, or net.ipv6.conf.IF.hop_limit.
    pub hop_limit: u8,
    /// How many VLAN tags a SYN may have to be challenged: 1, or 2 where the hand-off is on a VLAN device too.
    pub max_vlan_tags: u8,
    /// Zero.
    pub reserved: u8,
    /// Up to four of this host's IPv4 addresses, to be tried before `LOCAL`; 0: none.
    pub local4: [V4; 4],
    /// Likewise two IPv6 addresses, each as its halves ([`Address::halves`](crate::wire::address::Address::halves)).
    pub local6: [[u64; 2]; 2],
    /// Up to four broadcast addresses of this host's subnets, those of the interface first; 0: none.
    pub broadcast4: [V4; 4],
}

/// All defended interfaces, see [`interface_slot`].
pub type Interfaces = [Interface; INTERFACE_SLOTS as usize];

/// `Interface::flags`: the driver delivers frames whose TCP checksum holds the pseudo-header sum alone (veth and kin).
pub const INTERFACE_PARTIAL_CHECKSUMS: u32 = 1 << 0;
/// `Interface::flags`, set by the datapath: the driver cannot carry metadata, so the hand-off checks cookies again.
pub const INTERFACE_NO_METADATA: u32 = 1 << 1;
/// `Interface::flags`: `local4` and `local6` hold every address of this host, so `LOCAL` need not be asked.
pub const INTERFACE_LOCAL_COMPLETE: u32 = 1 << 2;

/// A MAC address in a word, as a frame begins with it ([`crate::wire::Packet::pairs`]), what follows it being zero.
pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    let [first, second] = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])];
    first as u64 | (second as u64) << 32
}
