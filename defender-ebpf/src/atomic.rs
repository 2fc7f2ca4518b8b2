//! Words that several CPUs write at the same time: the compiler has no such operations for this target.

use core::arch::asm;

use defender_common::load::Words;

/// Adds 1 to a word at once; it wraps.
///
/// # Safety
/// `word` is aligned and valid for writes, and nothing but this writes it meanwhile.
#[inline(always)]
pub(crate) unsafe fn increment(word: *mut u32) {
    // SAFETY: the caller says that the address is good; one instruction, which changes nothing else.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64) };
}

/// Words of map values.
pub(crate) struct Shared;

impl Words for Shared {
    #[inline(always)]
    fn add(word: &mut u64, more: u64) {
        // SAFETY: an aligned word of a map value; one instruction, which changes nothing else.
        unsafe {
            asm!("lock *(u64 *)({word} + 0) += {more}", word = in(reg) word, more = in(reg) more);
        }
    }

    #[inline(always)]
    fn take(word: &mut u64) -> u64 {
        let mut value = 0_u64;
        // SAFETY: as above.
        unsafe {
            asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) value);
        };
        value
    }

    #[inline(always)]
    fn replace(word: &mut u64, before: u64, after: u64) -> bool {
        let found: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {after})",
                word = in(reg) word,
                after = in(reg) after,
                inout("r0") before => found,
            );
        }
        found == before
    }
}
