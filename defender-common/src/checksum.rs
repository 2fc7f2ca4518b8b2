//! The Internet checksum (RFC 1071), and what an XDP program may conclude from one.
//!
//! Sums are over words in memory order. The ones' complement sum works in either byte order, as long as all
//! words use the same one.

use crate::wire::PROTOCOL_TCP;

/// Folds a sum of words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    // Adds both halves in each half. The lower half's carry goes into the upper one.
    let sum = sum.wrapping_add(sum.rotate_left(32)) >> 32;
    let sum = (sum << 16) + sum + (sum >> 16);
    (sum >> 16) as u16
}

/// Whether words with this sum, including their checksum, are intact: the sum folds to 0xffff. The sum must
/// not be 0.
///
/// The condition is that the sum is a multiple of 0xffff. Multiplying by the inverse of 0xffff modulo 2⁶⁴
/// turns a multiple into its quotient, and any other number into more than every quotient (Warren,
/// "Hacker's Delight", section 10-17). Folding takes four times as long.
#[inline(always)]
pub const fn is_intact(sum: u64) -> bool {
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The sum of TCP's pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1). `addresses` is the sum of
/// the addresses' words ([`Flow::addresses_sum`](crate::wire::address::Flow::addresses_sum)). `len` is the
/// length of header and data.
#[inline(always)]
pub const fn pseudo_header(addresses: u64, len: usize) -> u64 {
    addresses + (PROTOCOL_TCP as u32 + len as u32).to_be() as u64
}

/// Whether a segment's checksum is acceptable.
///
/// `pseudo_header` and `segment` are sums, the latter including the checksum field. `field` is that field.
/// An XDP program cannot know whether the NIC verified the checksum, so it must match in full. With
/// `partial`, the field may instead hold only the folded pseudo-header sum (`CHECKSUM_PARTIAL`,
/// include/linux/skbuff.h): veth and similar devices deliver frames whose checksum a local stack left to
/// the NIC.
#[inline(always)]
pub const fn acceptable(pseudo_header: u64, segment: u64, field: u16, partial: bool) -> bool {
    is_right(pseudo_header, segment) || partial && field == fold(pseudo_header)
}

/// Whether a segment's checksum matches in full, so that any receiver accepts it. The arguments are those
/// of [`acceptable`].
#[inline(always)]
pub const fn is_right(pseudo_header: u64, segment: u64) -> bool {
    is_intact(pseudo_header + segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{Flow, V4};
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn words(bytes: &[u8]) -> u64 {
        bytes.as_chunks().0.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
    }

    proptest! {
        #[test]
        fn folds_as_rfc_1071_does(bytes in prop::collection::vec(any::<[u8; 4]>(), 0..40)) {
            let bytes = bytes.concat();
            let (folded, expected) = (fold(words(&bytes)), reference(&bytes));
            prop_assert_eq!(folded % 0xffff, expected % 0xffff);
        }

        #[test]
        fn sums_that_fold_to_the_other_zero_are_intact(sum in 1..1_u64 << 48, times in 1..1_u64 << 32, by in 1..0xffff_u64) {
            prop_assert_eq!(is_intact(sum), fold(sum) == 0xffff);
            prop_assert!(is_intact(times * 0xffff) && !is_intact(times * 0xffff + by));
        }

        #[test]
        fn a_correct_segment_is_accepted_and_a_flipped_bit_is_not(
            source: u32, destination: u32, bytes in prop::collection::vec(any::<[u8; 4]>(), 5..15), bit in 0usize..160,
        ) {
            let mut bytes = bytes.concat();
            bytes[16..18].fill(0);
            let flow = Flow { source: V4(source), destination: V4(destination), source_port: 0, destination_port: 0 };
            let pseudo = pseudo_header(flow.addresses_sum(), bytes.len());
            let field = !fold(pseudo + words(&bytes));
            bytes[16..18].copy_from_slice(&field.to_ne_bytes());
            prop_assert!(acceptable(pseudo, words(&bytes), field, false));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!acceptable(pseudo, words(&bytes), u16::from_ne_bytes([bytes[16], bytes[17]]), false));
        }
    }

    #[test]
    fn a_partial_checksum_counts_only_where_expected() {
        let flow = Flow { source: V4(1), destination: V4(2), source_port: 0, destination_port: 0 };
        let pseudo = pseudo_header(flow.addresses_sum(), 40);
        assert!(acceptable(pseudo, 12345, fold(pseudo), true));
        assert!(!acceptable(pseudo, 12345, fold(pseudo), false));
        assert!(!acceptable(pseudo, 12345, fold(pseudo) ^ 1, true));
        assert!(!acceptable(pseudo, 12345, !fold(pseudo), true));
    }
}
