//! Cookie keys: drawn from the kernel's random source, changed every half minute.

use std::time::Duration;

use anyhow::{Context as _, Result};
use defender_common::abi::KeySlot;

/// How long a key makes cookies. It checks them for as long again, so a cookie lives between one and two periods.
pub const ROTATION: Duration = Duration::from_secs(30);
/// How long a cookie may live at most.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(60);

/// How long a SYN cookie of the kernel's own may live (`MAX_SYNCOOKIE_AGE`, include/net/tcp.h: two minutes).
pub const KERNEL_COOKIE_LIFETIME: Duration = Duration::from_secs(125);

/// Random bits.
pub fn random<const N: usize>() -> Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64().context("the kernel gives no random numbers")?;
    }
    Ok(words)
}

/// A slot with the key that comes after epoch `last`.
pub fn next(last: u32, key: [u64; 2]) -> KeySlot {
    KeySlot::new(key, last.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_epochs_count() {
        let (first, second) = (random().expect("random"), random().expect("random"));
        assert_ne!(first, second);
        assert_eq!(next(u32::MAX, first), KeySlot::new(first, 0));
    }
}
