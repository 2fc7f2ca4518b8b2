//! SipHash from its paper, byte by byte, with any number of rounds: another implementation than the datapath's.

use std::hash::{DefaultHasher, Hasher as _};

/// SipHash-1-3 of bytes.
pub(super) fn siphash13(key: [u64; 2], bytes: &[u8]) -> u64 {
    siphash(1, 3, key, bytes)
}

fn siphash(compression: usize, finalisation: usize, [k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
    // "somepseudorandomlygeneratedbytes"
    let mut v = [
        k0 ^ u64::from_be_bytes(*b"somepseu"),
        k1 ^ u64::from_be_bytes(*b"dorandom"),
        k0 ^ u64::from_be_bytes(*b"lygenera"),
        k1 ^ u64::from_be_bytes(*b"tedbytes"),
    ];
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len() / 8 * 8 + 7, 0);
    padded.push(bytes.len() as u8);
    for word in padded.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word);
        v[3] ^= word;
        (0..compression).for_each(|_| round(&mut v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..finalisation).for_each(|_| round(&mut v));
    v.into_iter().fold(0, |all, word| all ^ word)
}

fn round(v: &mut [u64; 4]) {
    for (a, b, turn) in [(0, 1, 13), (2, 3, 16)] {
        v[a] = v[a].wrapping_add(v[b]);
        v[b] = v[b].rotate_left(turn) ^ v[a];
    }
    v[0] = v[0].rotate_left(32);
    for (a, b, turn) in [(2, 1, 17), (0, 3, 21)] {
        v[a] = v[a].wrapping_add(v[b]);
        v[b] = v[b].rotate_left(turn) ^ v[a];
    }
    v[2] = v[2].rotate_left(32);
}

/// The standard library has SipHash-2-4 with a key, and SipHash-1-3 without.
#[test]
#[expect(deprecated, reason = "the standard library's SipHash-2-4")]
fn agrees_with_the_standard_library() {
    let bytes: Vec<u8> = (0..50).map(|byte| byte * 5).collect();
    for length in 0..bytes.len() {
        let bytes = &bytes[..length];
        let mut keyed = std::hash::SipHasher::new_with_keys(7, u64::MAX - 9);
        keyed.write(bytes);
        assert_eq!(siphash(2, 4, [7, u64::MAX - 9], bytes), keyed.finish(), "{length}");
        let mut plain = DefaultHasher::new();
        plain.write(bytes);
        assert_eq!(siphash13([0; 2], bytes), plain.finish(), "{length}");
    }
}
