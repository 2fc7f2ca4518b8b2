//! Arithmetic, comparisons, byte orders and atomic operations: what RFC 9669 says of them, and nothing else. Where there is no
//! such operation, they return nothing.

/// How wide an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 32 bits; the upper half of the result is zero.
    Half,
    /// 64 bits.
    Full,
}

impl Width {
    fn cut(self, value: u64) -> u64 {
        match self {
            Self::Half => u64::from(value as u32),
            Self::Full => value,
        }
    }

    fn signed(self, value: u64) -> i64 {
        match self {
            Self::Half => i64::from(value as i32),
            Self::Full => value as i64,
        }
    }

    fn shift(self, by: u64) -> u32 {
        by as u32 & if self == Self::Half { 31 } else { 63 }
    }
}

/// `a` and `b` by an operation.
pub(crate) fn compute(operation: u8, width: Width, a: u64, b: u64) -> Option<u64> {
    let (x, y) = (width.cut(a), width.cut(b));
    let value = match operation {
        0x0 => x.wrapping_add(y),
        0x1 => x.wrapping_sub(y),
        0x2 => x.wrapping_mul(y),
        0x3 => x.checked_div(y).unwrap_or(0),
        0x4 => x | y,
        0x5 => x & y,
        0x6 => x << width.shift(y),
        0x7 => x >> width.shift(y),
        0x8 => x.wrapping_neg(),
        0x9 => x.checked_rem(y).unwrap_or(x),
        0xa => x ^ y,
        0xb => y,
        0xc => (width.signed(x) >> width.shift(y)) as u64,
        _ => return None,
    };
    Some(width.cut(value))
}

/// The lowest so many bits, as a signed number.
pub(crate) fn extend(value: u64, bits: u32) -> Option<u64> {
    match bits {
        8 => Some(value as i8 as u64),
        16 => Some(value as i16 as u64),
        32 => Some(value as i32 as u64),
        _ => None,
    }
}

/// The lowest so many bits, with the order of bytes turned or not.
pub(crate) fn reorder(value: u64, bits: i32, turned: bool) -> Option<u64> {
    Some(match (bits, turned) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (64, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        (64, false) => value,
        _ => return None,
    })
}

/// Whether a conditional jump is taken.
pub(crate) fn compare(operation: u8, width: Width, a: u64, b: u64) -> Option<bool> {
    let (x, y) = (width.cut(a), width.cut(b));
    let (signed_x, signed_y) = (width.signed(a), width.signed(b));
    Some(match operation {
        0x1 => x == y,
        0x2 => x > y,
        0x3 => x >= y,
        0x4 => x & y != 0,
        0x5 => x != y,
        0x6 => signed_x > signed_y,
        0x7 => signed_x >= signed_y,
        0xa => x < y,
        0xb => x <= y,
        0xc => signed_x < signed_y,
        0xd => signed_x <= signed_y,
        _ => return None,
    })
}

/// What an atomic operation leaves in memory, and what it puts where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atomic {
    /// What is then in memory.
    pub(crate) stored: u64,
    /// What was there goes into the source register.
    pub(crate) fetches: bool,
    /// What was there goes into r0.
    pub(crate) compares: bool,
}

/// An atomic operation on `old` in memory with a register's value; `expected` is r0.
pub(crate) fn atomic(operation: i32, width: Width, old: u64, value: u64, expected: u64) -> Option<Atomic> {
    let (value, expected) = (width.cut(value), width.cut(expected));
    let stored = match operation & !1 {
        0x00 => width.cut(old.wrapping_add(value)),
        0x40 => old | value,
        0x50 => old & value,
        0xa0 => old ^ value,
        0xe0 if operation == 0xe1 => value,
        0xf0 if operation == 0xf1 => {
            if old == expected {
                value
            } else {
                old
            }
        }
        _ => return None,
    };
    let compares = operation == 0xf1;
    Some(Atomic { stored, fetches: operation & 1 != 0 && !compares, compares })
}

#[cfg(test)]
mod tests {
    use super::{Width::*, *};

    const ADD: u8 = 0;
    const LEFT: u8 = 6;
    const RIGHT: u8 = 7;
    const ARITHMETIC: u8 = 0xc;

    #[test]
    fn sums_wrap_at_their_width() {
        assert_eq!(compute(ADD, Full, u64::MAX, 2), Some(1));
        assert_eq!(compute(ADD, Half, 0xffff_ffff, 2), Some(1));
        assert_eq!(compute(ADD, Half, 0x5_0000_0001, 2), Some(3));
        assert_eq!(compute(1, Half, 1, 2), Some(0xffff_ffff));
        assert_eq!(compute(1, Full, 1, 2), Some(u64::MAX));
        assert_eq!(compute(2, Half, 0x1_0000, 0x1_0001), Some(0x1_0000));
        assert_eq!(compute(8, Half, 1, 0), Some(0xffff_ffff));
        assert_eq!(compute(8, Full, 1, 0), Some(u64::MAX));
    }

    #[test]
    fn division_by_nothing_is_no_error() {
        assert_eq!(compute(3, Full, 7, 2), Some(3));
        assert_eq!(compute(3, Full, 7, 0), Some(0));
        assert_eq!(compute(9, Full, 7, 4), Some(3));
        assert_eq!(compute(9, Full, 7, 0), Some(7));
        assert_eq!(compute(9, Half, 0x1_0000_0007, 0x1_0000_0000), Some(7));
    }

    #[test]
    fn bits_are_joined_and_copied() {
        assert_eq!(compute(4, Full, 12, 10), Some(14));
        assert_eq!(compute(5, Full, 12, 10), Some(8));
        assert_eq!(compute(0xa, Full, 12, 10), Some(6));
        assert_eq!(compute(0xb, Half, 12, u64::MAX), Some(0xffff_ffff));
        assert_eq!(compute(0xb, Full, 12, u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn shifts_take_as_many_bits_as_there_are() {
        assert_eq!(compute(LEFT, Full, 1, 63), Some(1 << 63));
        assert_eq!(compute(LEFT, Full, 1, 64), Some(1));
        assert_eq!(compute(LEFT, Half, 1, 31), Some(1 << 31));
        assert_eq!(compute(LEFT, Half, 3, 31), Some(1 << 31));
        assert_eq!(compute(LEFT, Half, 1, 33), Some(2));
        assert_eq!(compute(RIGHT, Half, 0xf_8000_0000, 31), Some(1));
        assert_eq!(compute(ARITHMETIC, Half, 0x8000_0000, 4), Some(0xf800_0000));
        assert_eq!(compute(ARITHMETIC, Full, 1 << 63, 63), Some(u64::MAX));
        assert_eq!(compute(ARITHMETIC, Full, 0x8000_0000, 4), Some(0x0800_0000));
    }

    #[test]
    fn signs_are_extended() {
        assert_eq!(extend(0x80, 8), Some(0xffff_ffff_ffff_ff80));
        assert_eq!(extend(0x17f, 8), Some(0x7f));
        assert_eq!(extend(0x8000, 16), Some(0xffff_ffff_ffff_8000));
        assert_eq!(extend(0x8000_0000, 32), Some(0xffff_ffff_8000_0000));
        assert_eq!(extend(1, 7), None);
    }

    #[test]
    fn bytes_turn() {
        assert_eq!(reorder(0x1122_3344_5566_7788, 16, true), Some(0x8877));
        assert_eq!(reorder(0x1122_3344_5566_7788, 32, true), Some(0x8877_6655));
        assert_eq!(reorder(0x1122_3344_5566_7788, 64, true), Some(0x8877_6655_4433_2211));
        assert_eq!(reorder(0x1122_3344_5566_7788, 16, false), Some(0x7788));
        assert_eq!(reorder(1, 8, true), None);
    }

    #[test]
    fn comparisons_know_signs() {
        let minus = u64::MAX;
        let taken = |operation, width, a, b| compare(operation, width, a, b).expect("known");
        assert!(taken(2, Full, minus, 1) && !taken(6, Full, minus, 1));
        assert!(!taken(0xa, Full, minus, 1) && taken(0xc, Full, minus, 1));
        assert!(
            taken(3, Full, 1, 1) && taken(7, Full, 1, 1) && taken(0xb, Full, 1, 1) && taken(0xd, Full, 1, 1)
        );
        assert!(taken(1, Half, 0x5_0000_0001, 1) && taken(5, Full, 0x5_0000_0001, 1));
        assert!(taken(0xc, Half, 0xffff_ffff, 1) && !taken(0xc, Full, 0xffff_ffff, 1));
        assert!(taken(4, Full, 6, 2) && !taken(4, Full, 4, 2));
        assert_eq!(compare(0xe, Full, 0, 0), None);
    }

    #[test]
    fn atomics_store_and_fetch() {
        let of = |operation, width, old, value, expected| {
            atomic(operation, width, old, value, expected)
                .map(|done| (done.stored, done.fetches, done.compares))
                .expect("known")
        };
        assert_eq!(of(0x00, Full, 5, 7, 0), (12, false, false));
        assert_eq!(of(0x01, Half, 0xffff_ffff, 2, 0), (1, true, false));
        assert_eq!(of(0x40, Full, 5, 2, 0), (7, false, false));
        assert_eq!(of(0x51, Full, 5, 4, 0), (4, true, false));
        assert_eq!(of(0xa0, Full, 5, 4, 0), (1, false, false));
        assert_eq!(of(0xe1, Full, 5, 4, 0), (4, true, false));
        assert_eq!(of(0xf1, Full, 5, 4, 5), (4, false, true));
        assert_eq!(of(0xf1, Full, 5, 4, 6), (5, false, true));
        assert_eq!(of(0xf1, Half, 5, 4, 0x1_0000_0005), (4, false, true));
        assert_eq!(atomic(0xe0, Full, 1, 1, 1), None);
        assert_eq!(atomic(0x20, Full, 1, 1, 1), None);
    }
}
