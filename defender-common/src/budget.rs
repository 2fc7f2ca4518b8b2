//! What one source prefix gets in a second: SYN-ACKs ([`Kind::Reply`]), and RSTs of the kernel for out-of-state segments
//! ([`Kind::OutOfState`]).
//!
//! For each, a prefix has one cache line and two cells in it, each counting one second. It is over its budget when both cells are.
//! Another prefix suffers only if it shares both, as one in 524,288 does. With a thousand prefixes over their budgets, two in a
//! thousand of the others suffer.
//!
//! **SYN-ACKs** have no budget by default. Reflecting them gains an attacker nothing: each is as long as the kernel's own, and is
//! sent once where the kernel sends six. A budget that a flood reaches shuts out the real clients of the network that the flood
//! spoofs. Validated sources are answered beyond it.
//!
//! **Out-of-state segments** pass so that the kernel resets their connection: this host may have lost it. Each CPU considers
//! [`OUT_OF_STATE_PER_SECOND`] of them, and lets as many more of validated sources pass. A RST takes the kernel about 3 µs, so that
//! is less than a hundredth of the CPU's time.

use crate::{
    abi::{BUDGET_CELLS, BUDGET_LINES, BudgetLine},
    field,
    shared::Shared,
};

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;
const HALF: usize = BUDGET_CELLS / 2;

/// How many out-of-state segments each CPU considers in a second (1.024 s), before the budget of their networks. As many more of
/// validated sources may pass, which a flood from spoofed sources cannot use up.
pub const OUT_OF_STATE_PER_SECOND: u32 = 1_000;

/// What is counted of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// SYN-ACKs.
    Reply = 0,
    /// Out-of-state segments that pass.
    OutOfState = 0x9e37_79b9_7f4a_7c15,
}

/// Where something is counted of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSlot {
    /// Index of the line.
    pub line: u32,
    cells: u32,
}

/// The slot of a prefix.
#[inline(always)]
pub const fn slot(prefix: u64, kind: Kind, secret: [u64; 2]) -> BudgetSlot {
    let hash = (prefix ^ secret[0]).wrapping_mul(0x9fb2_1c65_1e98_df25) ^ secret[1] ^ kind as u64;
    let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    BudgetSlot { line: (hash >> 48) as u32 % BUDGET_LINES, cells: (hash >> 32) as u32 }
}

/// Counts one more of a prefix. `now` is in milliseconds. Returns how many there were in this second, this one included.
#[inline(always)]
pub fn charge_line(line: &Shared<BudgetLine>, slot: BudgetSlot, now: u32) -> u32 {
    let cells = field!(line.cells).each();
    let first = &cells[slot.cells as usize % HALF];
    let one = charge_cell(first, now);
    let second = &cells[HALF + (slot.cells >> 8) as usize % HALF];
    let other = charge_cell(second, now);
    if one < other { one } else { other }
}

/// Counts one in a cell. Returns how many it has counted in this second.
#[inline(always)]
pub fn charge_cell(cell: &Shared<u32>, now: u32) -> u32 {
    let charged = charge(cell.get(), now);
    cell.set(charged);
    count(charged)
}

/// The value of a cell with one more counted.
#[inline(always)]
const fn charge(cell: u32, now: u32) -> u32 {
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
const fn count(cell: u32) -> u32 {
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
        let (one, other) =
            (BudgetSlot { line: 0, cells: 3 | 5 << 8 }, BudgetSlot { line: 0, cells: 3 | 6 << 8 });
        for expected in 1..=7 {
            assert_eq!(charge_line(Shared::from_mut(&mut line), one, 5_000), expected);
        }
        assert_eq!(charge_line(Shared::from_mut(&mut line), other, 5_000), 1);
        assert_eq!(charge_line(Shared::from_mut(&mut line), other, 5_000), 2);
        assert_eq!(charge_line(Shared::from_mut(&mut line), one, 5_000), 8);
        assert_eq!(charge_line(Shared::from_mut(&mut line), one, 7_000), 1);
    }

    #[test]
    fn prefixes_spread() {
        let mut seen = std::collections::HashSet::new();
        for prefix in 0..10_000 {
            let place = slot(prefix, Kind::Reply, [1, 2]);
            assert_ne!(place, slot(prefix, Kind::OutOfState, [1, 2]));
            assert!(place.line < BUDGET_LINES);
            seen.insert((place.line, place.cells % 8, (place.cells >> 8) % 8));
        }
        assert!(seen.len() > 9_880, "{}", seen.len());
    }
}
