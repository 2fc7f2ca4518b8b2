//! SipHash (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), for inputs that come as 64-bit words.

/// The initial state of a SipHash with this key, the same for every input. Computed once per key.
pub const fn begun([k0, k1]: [u64; 2]) -> [u64; 4] {
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

/// A SipHash in progress, with `C` compression rounds per word and `D` final rounds.
#[derive(Clone, Copy)]
pub struct SipHash<const C: usize, const D: usize> {
    v: [u64; 4],
    words: u8,
}

impl<const C: usize, const D: usize> SipHash<C, D> {
    /// Starts from the state that [`begun`] computed for a key.
    #[inline(always)]
    pub const fn new(begun: [u64; 4]) -> Self {
        Self { v: begun, words: 0 }
    }

    /// Absorbs eight bytes, the first in the lowest bits.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.compress(word);
        self.words += 1;
    }

    /// Absorbs the last seven bytes (the upper eight bits of `tail` are ignored) and returns the hash.
    #[inline(always)]
    pub fn finish(mut self, tail: u64) -> u64 {
        let len = (self.words * 8 + 7) as u64;
        self.compress(tail & (u64::MAX >> 8) | len << 56);
        self.v[2] ^= 0xff;
        for _ in 0..D {
            self.round();
        }
        let [a, b, c, d] = self.v;
        a ^ b ^ c ^ d
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.v[3] ^= word;
        for _ in 0..C {
            self.round();
        }
        self.v[0] ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and input of the paper's appendix A: bytes 0, 1, 2, …
    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn the_paper_s_vector() {
        let mut hash = SipHash::<2, 4>::new(begun(KEY));
        hash.word(0x0706_0504_0302_0100);
        assert_eq!(hash.finish(0x000e_0d0c_0b0a_0908), 0xa129_ca61_49be_45e5);
    }

    #[test]
    #[expect(deprecated, reason = "the standard library's SipHash-2-4 is an independent implementation")]
    fn agrees_with_the_standard_library() {
        use std::hash::{Hasher, SipHasher};
        for words in 0..6u64 {
            let mut ours = SipHash::<2, 4>::new(begun(KEY));
            let mut theirs = SipHasher::new_with_keys(KEY[0], KEY[1]);
            for word in 0..words {
                let word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ours.word(word);
                theirs.write(&word.to_le_bytes());
            }
            theirs.write(&[1, 2, 3, 4, 5, 6, 7]);
            assert_eq!(ours.finish(u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 0])), theirs.finish());
        }
    }
}
