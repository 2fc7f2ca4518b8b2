//! How many SYN-ACKs a second one source prefix is sent.
//!
//! Answering spoofed SYNs makes this host a reflector; a budget per prefix keeps the reflection small. The sketch has
//! two rows of cells, each counting one second; a prefix has one cell in each row and is over its budget when both
//! cells are: another prefix suffers only if it shares both.

use crate::abi::BUDGET_CELLS;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;

/// The two cells of a prefix, as indices into the map.
#[inline(always)]
pub fn cells(prefix: u64, secret: [u64; 2]) -> [u32; 2] {
    let hash = (prefix ^ secret[0]).wrapping_mul(0x9fb2_1c65_1e98_df25) ^ secret[1];
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    [(hash >> 48) as u32 % BUDGET_CELLS, BUDGET_CELLS + (hash >> 32) as u32 % BUDGET_CELLS]
}

/// Counts one reply in a cell. `now` is in milliseconds. Returns the cell's new value and its count, this reply
/// included.
#[inline(always)]
pub const fn charge(cell: u32, now: u32) -> (u32, u32) {
    // 1.024 s, a shift instead of a division; 12 bits of it: an idle cell looks current once in 70 minutes.
    let second = now >> 10 << COUNT_BITS;
    let count = if cell & !COUNT_MASK == second { cell & COUNT_MASK } else { 0 };
    let count = if count == COUNT_MASK { count } else { count + 1 };
    (second | count, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_within_a_second_and_begins_anew() {
        let mut cell = 0;
        for expected in 1..=1000 {
            let (next, count) = charge(cell, 5_000);
            assert_eq!(count, expected);
            cell = next;
        }
        assert_eq!(charge(cell, 7_000).1, 1);
    }

    #[test]
    fn a_full_cell_stays_full() {
        let (full, count) = charge(5 << COUNT_BITS | COUNT_MASK, 5 << 10);
        assert_eq!((full, count), (5 << COUNT_BITS | COUNT_MASK, COUNT_MASK));
    }

    #[test]
    fn rows_are_apart_and_prefixes_spread() {
        let mut seen = std::collections::HashSet::new();
        for prefix in 0..10_000 {
            let [a, b] = cells(prefix, [1, 2]);
            assert!(a < BUDGET_CELLS && (BUDGET_CELLS..2 * BUDGET_CELLS).contains(&b));
            seen.insert((a, b));
        }
        assert!(seen.len() > 9_990);
    }
}
