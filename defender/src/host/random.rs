//! The kernel's random source.

use anyhow::{Context as _, Result};

/// Random bits.
pub fn words<const N: usize>() -> Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64().context("cannot get random numbers from the kernel")?;
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_words_differ() {
        let [first, second] = [(); 2].map(|()| words::<2>().expect("random"));
        assert_ne!(first, second);
    }
}
