//! What source networks have used of their budgets: the value of `BUDGET`.

/// Lines of `BUDGET`: a power of two.
pub const BUDGET_LINES: u32 = 8_192;
/// Cells of a line: a power of two.
pub const BUDGET_CELLS: usize = 16;

/// One cache line of counts, see [`crate::budget`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLine {
    /// The counts.
    pub cells: [u32; BUDGET_CELLS],
}

/// The value of `BUDGET`.
pub type BudgetLines = [BudgetLine; BUDGET_LINES as usize];
