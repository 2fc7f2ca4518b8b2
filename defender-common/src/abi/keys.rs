//! Cookie keys: the value of `KEYS`.

use crate::siphash;

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
