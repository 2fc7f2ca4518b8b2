//! Takes an input apart.

use defender_common::wire::{
    address::{Flow, V4, V6},
    options::{NO_WINDOW_SCALE, Offer},
};

/// The rest of the input. Zeros follow its end.
pub(crate) struct FuzzInput<'a>(pub(crate) &'a [u8]);

impl FuzzInput<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (head, rest) = self.0.split_at(self.0.len().min(N));
        taken[..head.len()].copy_from_slice(head);
        self.0 = rest;
        taken
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    pub(crate) fn flow_v4(&mut self) -> Flow<V4> {
        Flow {
            source: V4(self.u32()),
            destination: V4(self.u32()),
            source_port: self.u16(),
            destination_port: self.u16(),
        }
    }

    pub(crate) fn flow_v6(&mut self) -> Flow<V6> {
        Flow {
            source: V6([self.u32(), self.u32(), self.u32(), self.u32()]),
            destination: V6([self.u32(), self.u32(), self.u32(), self.u32()]),
            source_port: self.u16(),
            destination_port: self.u16(),
        }
    }

    /// Any size, or one at or next to a size that is rounded to.
    pub(crate) fn mss(&mut self) -> u16 {
        const SIZES: [u16; 16] =
            [0, 536, 1220, 1300, 1360, 1380, 1400, 1432, 1440, 1452, 1460, 4096, 8940, 8960, 9000, 65_532];
        let (kind, any) = (self.u8(), self.u16());
        match kind % 4 {
            0 => any,
            beside => (SIZES[usize::from(kind >> 4)] + u16::from(beside)).saturating_sub(2),
        }
    }

    /// Any result of scanning a SYN's options.
    pub(crate) fn offer(&mut self) -> Offer {
        Offer {
            mss: self.mss(),
            window_scale: self.u8() % (NO_WINDOW_SCALE + 1),
            sack: self.bool(),
            timestamps: self.bool(),
            timestamp: self.u32(),
            signed: false,
        }
    }
}
