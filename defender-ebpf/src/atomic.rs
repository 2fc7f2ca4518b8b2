//! Adding to words that several CPUs count in: the compiler has atomic operations of 64 bits only for this target.

use core::arch::asm;

/// Adds 1 to a word at once; it wraps.
///
/// # Safety
/// `word` is aligned and valid for writes, and nothing but this writes it meanwhile.
#[inline(always)]
pub(crate) unsafe fn increment(word: *mut u32) {
    // SAFETY: the caller says that the address is good; one instruction, which changes nothing else.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64) };
}
