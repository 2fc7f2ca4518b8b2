//! Atomic operations on words that several CPUs write: the compiler has none for this target.

use core::arch::asm;

use defender_common::{load::Words, shared::Shared};

/// Adds 1 to a word; it wraps.
#[inline(always)]
pub(crate) fn increment(word: &Shared<u32>) {
    // SAFETY: an aligned word that is there; one instruction, which changes nothing else.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {one}", word = in(reg) word.as_ptr(), one = in(reg) 1u64) };
}

/// Stores a word as another CPU would: the compiler may have references to it, whose reads it need not order with this.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn store(word: *mut u32, value: u32) {
    // SAFETY: as the caller says; one instruction, which changes nothing else.
    unsafe { asm!("*(u32 *)({word} + 0) = {value}", word = in(reg) word, value = in(reg) value as u64) };
}

/// [`Words`] of map values.
pub(crate) struct Atomic;

impl Words for Atomic {
    #[inline(always)]
    fn add(word: &Shared<u64>, more: u64) {
        // SAFETY: an aligned word that is there; one instruction, which changes nothing else.
        unsafe {
            asm!("lock *(u64 *)({word} + 0) += {more}", word = in(reg) word.as_ptr(), more = in(reg) more);
        }
    }

    #[inline(always)]
    fn take(word: &Shared<u64>) -> u64 {
        let mut value = 0_u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = xchg_64({word} + 0, {value})",
                word = in(reg) word.as_ptr(),
                value = inout(reg) value,
            );
        };
        value
    }

    #[inline(always)]
    fn replace(word: &Shared<u64>, before: u64, after: u64) -> bool {
        let found: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {after})",
                word = in(reg) word.as_ptr(),
                after = in(reg) after,
                inout("r0") before => found,
            );
        }
        found == before
    }
}
