//! The Internet checksum.

/// Ones' complement sum of the 16-bit words, in the byte order of this machine; an odd last byte is padded with a zero.
/// Sums of several pieces may be added up before they are folded.
pub(crate) fn sum_words(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let whole: u32 = words.iter().map(|word| u32::from(u16::from_ne_bytes(*word))).sum();
    whole + rest.first().map_or(0, |last| u32::from(u16::from_ne_bytes([*last, 0])))
}

/// Folds a sum to 16 bits.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header; addresses are 4 or 16 bytes each.
pub(crate) fn pseudo_header_sum(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> u32 {
    let length = (length as u32).to_be_bytes();
    sum_words(source) + sum_words(destination) + sum_words(&[0, protocol]) + sum_words(&length)
}

#[cfg(test)]
mod tests {
    use super::{fold, pseudo_header_sum, sum_words};

    #[test]
    fn an_odd_byte_is_padded() {
        assert_eq!(fold(sum_words(&[0x12, 0x34, 0x56])).to_ne_bytes(), [0x68, 0x34]);
    }

    #[test]
    fn carries_come_around() {
        assert_eq!(fold(sum_words(&[0xff, 0xff, 0x00, 0x01])).to_ne_bytes(), [0x00, 0x01]);
    }

    #[test]
    fn the_pseudo_header_holds_protocol_and_length() {
        let sum = fold(pseudo_header_sum(&[10, 0, 0, 1], &[10, 0, 0, 2], 6, 20));
        assert_eq!(sum.to_ne_bytes(), [0x14, 3 + 6 + 20]);
    }
}
