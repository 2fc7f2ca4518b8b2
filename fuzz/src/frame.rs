//! Bytes for the parsers.

use defender_common::wire::Packet;

/// A frame. The parsers also accept slices, but those generic over sized packets need this.
pub(crate) struct Frame<'a>(pub(crate) &'a [u8]);

impl Packet for Frame<'_> {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.0.words(offset)
    }

    fn pairs<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        self.0.pairs(offset)
    }

    fn halves<const N: usize>(&self, offset: usize) -> Option<[u16; N]> {
        self.0.halves(offset)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.byte(offset)
    }

    fn reaches(&self, end: usize) -> bool {
        self.0.reaches(end)
    }
}
