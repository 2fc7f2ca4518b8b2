//! How many SYN-ACKs a second one source prefix is sent.
//!
//! Answering spoofed SYNs makes this host a reflector; a budget per prefix keeps the reflection small. A prefix has one
//! cache line, and two cells in it, one of either half, each counting one second. It is over its budget when both cells
//! are: another prefix suffers only if it shares both, which one in 524,288 does with a given other. Where a thousand
//! prefixes are over their budgets, that are two in a thousand of the rest.

use crate::abi::{BUDGET_CELLS, BUDGET_LINES, BudgetLine};

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;
const HALF: usize = BUDGET_CELLS / 2;

/// Where the replies to a prefix are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the line.
    pub line: u32,
    cells: u32,
}

/// Finds the place of a prefix.
#[inline(always)]
pub const fn place(prefix: u64, secret: [u64; 2]) -> Place {
    let hash = (prefix ^ secret[0]).wrapping_mul(0x9fb2_1c65_1e98_df25) ^ secret[1];
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    Place { line: (hash >> 48) as u32 % BUDGET_LINES, cells: (hash >> 32) as u32 }
}

/// Counts one reply to a prefix. `now` is in milliseconds. Returns how many there were in this second, this one included.
#[inline(always)]
pub fn charge_line(BudgetLine(cells): &mut BudgetLine, place: Place, now: u32) -> u32 {
    let first = &mut cells[place.cells as usize % HALF];
    *first = charge(*first, now);
    let one = count(*first);
    let second = &mut cells[HALF + (place.cells >> 8) as usize % HALF];
    *second = charge(*second, now);
    let other = count(*second);
    if one < other { one } else { other }
}

/// Counts one in a cell: its new value.
#[inline(always)]
pub const fn charge(cell: u32, now: u32) -> u32 {
    // 1.024 s, a shift instead of a division; 12 bits of it: an idle cell looks current once in 70 minutes.
    let second = now >> 10 << COUNT_BITS;
    let count = cell.wrapping_sub(second);
    if count < COUNT_MASK {
        cell + 1
    } else if count == COUNT_MASK {
        cell
    } else {
        second | 1
    }
}

/// The count of a cell that was just charged.
#[inline(always)]
pub const fn count(cell: u32) -> u32 {
    cell & COUNT_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_within_a_second_and_begins_anew() {
        let mut cell = 0;
        for expected in 1..=1000 {
            cell = charge(cell, 5_000);
            assert_eq!(count(cell), expected);
        }
        assert_eq!(count(charge(cell, 7_000)), 1);
        // Of a later second, as after 70 minutes.
        assert_eq!(count(charge(cell, 3_000)), 1);
    }

    #[test]
    fn a_full_cell_stays_full() {
        let full = 4 << COUNT_BITS | COUNT_MASK;
        assert_eq!(charge(full, 4 << 10), full);
        assert_eq!(charge(full - 1, 4 << 10), full);
        assert_eq!(charge(full, 5 << 10), 5 << COUNT_BITS | 1);
    }

    #[test]
    fn the_emptier_cell_counts() {
        let mut line = BudgetLine::default();
        let (one, other) = (Place { line: 0, cells: 3 | 5 << 8 }, Place { line: 0, cells: 3 | 6 << 8 });
        for expected in 1..=7 {
            assert_eq!(charge_line(&mut line, one, 5_000), expected);
        }
        assert_eq!(charge_line(&mut line, other, 5_000), 1);
        assert_eq!(charge_line(&mut line, other, 5_000), 2);
        assert_eq!(charge_line(&mut line, one, 5_000), 8);
        assert_eq!(charge_line(&mut line, one, 7_000), 1);
    }

    #[test]
    fn prefixes_spread() {
        let mut seen = std::collections::HashSet::new();
        for prefix in 0..10_000 {
            let place = place(prefix, [1, 2]);
            assert!(place.line < BUDGET_LINES);
            seen.insert((place.line, place.cells % 8, (place.cells >> 8) % 8));
        }
        assert!(seen.len() > 9_880, "{}", seen.len());
    }
}
