//! Counts the distinct sources that send SYNs to a service, and samples their networks.
//!
//! The count is a HyperLogLog (Flajolet, Fusy, Gandouet, Meunier 2007). A source's hash selects a register
//! and, by its trailing zeros, a rank. A register keeps the highest rank. Windows of 8.192 s alternate
//! between two banks. Registers store their window's number, so those of older windows count as empty and
//! need no clearing.
//!
//! A register stores eleven bits of its window's number, including the bit for the bank. So a register that
//! was not written since looks current again for a moment after 4 h 40 min. No window has more sources than
//! SYNs, so cap the count by the number of SYNs.
//!
//! Samples are randomly chosen sources of SYNs. Each slot is written at most once per millisecond, so that
//! CPUs do not contend for it in a flood. If several CPUs write at the same time, a rank or a sample is
//! lost or mixed. Among so many this hardly matters.

use crate::{
    abi::{SOURCE_REGISTERS, SOURCE_SAMPLES, SourceSample, Sources, TableKeys},
    clock, field,
    shared::Shared,
    wire::address::Address,
};

const WINDOW_BITS: u32 = 13;
/// Length of a window in milliseconds.
pub const WINDOW_MS: u32 = 1 << WINDOW_BITS;
/// How long a sample is valid, in milliseconds.
pub const SAMPLE_MS: u32 = 10_000;

const RANK_BITS: u32 = 6;
const RANK_MASK: u16 = (1 << RANK_BITS) - 1;
/// The hash bits from here up select the register. Those below make the rank.
const INDEX_SHIFT: u32 = 64 - SOURCE_REGISTERS.trailing_zeros();

/// Records the source of a SYN. `keys` keep outsiders from choosing sources that share a register.
#[inline(always)]
pub fn note<A: Address>(sources: &Shared<Sources>, source: A, keys: &TableKeys, now: u32) {
    let hash = source.hash(keys);
    let register = &field!(sources.registers[bank(now)]).each()[(hash >> INDEX_SHIFT) as usize];
    // The new rank is higher if at least as many low bits are zero as the old one says. Mostly it is not.
    if hash & ((1 << rank(register.get(), now)) - 1) == 0 {
        register.set(tag(now) | rank_of(hash));
    }
    let sample = field!(sources.samples[slot(hash, now)]);
    if field!(sample.at).get() != now {
        field!(sample.at).set(now);
        field!(sample.address).set(source.octets());
    }
}

/// The bank of the window that `at` is in.
#[inline(always)]
const fn bank(at: u32) -> usize {
    (at >> WINDOW_BITS & 1) as usize
}

/// The bits above the rank in a register of that window. The bank tells whether the window is even.
#[inline(always)]
const fn tag(at: u32) -> u16 {
    ((at >> (WINDOW_BITS + 1)) as u16) << RANK_BITS
}

/// The rank in a register, or 0 if it belongs to another window.
#[inline(always)]
const fn rank(register: u16, at: u32) -> u16 {
    if register & !RANK_MASK == tag(at) { register & RANK_MASK } else { 0 }
}

/// The rank of a hash: 1 .. [`INDEX_SHIFT`].
#[inline(always)]
const fn rank_of(hash: u64) -> u16 {
    let hash = hash | 1 << (INDEX_SHIFT - 1);
    // The trailing zeros and the one above them. For trailing_zeros, the eBPF compiler would use a table.
    (hash ^ (hash - 1)).count_ones() as u16
}

/// The sample that a source may replace. It differs in each millisecond, so that all samples keep changing.
#[inline(always)]
const fn slot(hash: u64, now: u32) -> usize {
    let mixed = (hash ^ now as u64).wrapping_mul(0x9fb2_1c65_1e98_df25);
    (mixed >> 32) as usize % SOURCE_SAMPLES
}

/// A count of distinct sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distinct {
    /// The estimate; its standard error is 1.04/√512, 4.6 %, and less below a few hundred.
    pub count: u64,
    /// The length of the counted window, in milliseconds.
    pub window_ms: u32,
}

/// The number of distinct sources in the last complete window, or in the current one if that has more
/// already. For hosts only: the programs have no floating point.
#[cfg(not(target_arch = "bpf"))]
pub fn distinct(sources: &Sources, now: u32) -> Distinct {
    let complete = estimate(sources, now.wrapping_sub(WINDOW_MS));
    let running = estimate(sources, now);
    if running > complete {
        Distinct { count: running, window_ms: now % WINDOW_MS + 1 }
    } else {
        Distinct { count: complete, window_ms: WINDOW_MS }
    }
}

/// The estimate for the window that `at` is in.
///
/// The estimator is O. Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", 2017,
/// section 4). It is accurate over the whole range without corrections, and needs no logarithm.
#[cfg(not(target_arch = "bpf"))]
fn estimate(sources: &Sources, at: u32) -> u64 {
    const REGISTERS: f64 = SOURCE_REGISTERS as f64;
    let (mut empty, mut sum) = (0, 0.0);
    for register in &sources.registers[bank(at)] {
        match rank(*register, at) {
            0 => empty += 1,
            rank => sum += 1.0 / (1_u64 << rank) as f64,
        }
    }
    if empty == SOURCE_REGISTERS {
        return 0;
    }
    sum += REGISTERS * sigma(empty as f64 / REGISTERS);
    (REGISTERS * REGISTERS / (2.0 * core::f64::consts::LN_2) / sum + 0.5) as u64
}

/// x + x²·1 + x⁴·2 + x⁸·4 + …, for 0 ≤ x < 1: the contribution of empty registers.
#[cfg(not(target_arch = "bpf"))]
fn sigma(x: f64) -> f64 {
    let (mut sum, mut power, mut factor) = (x, x, 1.0);
    // Even 511/512 vanishes after 20 squarings.
    for _ in 0..32 {
        power *= power;
        sum += power * factor;
        factor += factor;
    }
    sum
}

/// The samples of the last ten seconds.
pub fn recent_samples(sources: &Sources, now: u32) -> impl Iterator<Item = &SourceSample> {
    sources.samples.iter().filter(move |sample| sample.at != 0 && clock::age(sample.at, now) < SAMPLE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{KEYS, V4, V6};
    use proptest::prelude::*;

    const ERROR: f64 = 0.046;

    /// The address of that number.
    fn v4(number: u32) -> V4 {
        V4(number.to_be())
    }

    fn noted(numbers: impl Iterator<Item = u32>, keys: &TableKeys, now: u32) -> Sources {
        let mut sources = Sources::default();
        for number in numbers {
            note(Shared::from_mut(&mut sources), v4(number), keys, now);
        }
        sources
    }

    /// The relative error of the estimate for `count` sources.
    fn error(sources: &Sources, count: u32, now: u32) -> f64 {
        distinct(sources, now).count as f64 / f64::from(count) - 1.0
    }

    #[test]
    fn within_three_standard_errors() {
        for count in [10, 100, 1000, 10_000, 100_000, 1_000_000] {
            // Neighbouring addresses, one host per /24, and addresses spread over the whole range.
            for stride in [1, 256, 0x9e37_79b1] {
                let numbers = (0..count).map(|number: u32| number.wrapping_mul(stride));
                let error = error(&noted(numbers, &KEYS, 5_000), count, 5_000);
                assert!(error.abs() < 3.0 * ERROR, "{count} by {stride}: {error}");
            }
        }
    }

    #[test]
    fn ipv6_within_three_standard_errors() {
        for count in [10, 1000, 100_000] {
            for word in 0..4 {
                let mut sources = Sources::default();
                for number in 0..count {
                    let mut words = [0x2001_u32, 0, 0, 0];
                    words[word] ^= number << 12;
                    note(Shared::from_mut(&mut sources), V6(words), &KEYS, 5_000);
                }
                let error = error(&sources, count, 5_000);
                assert!(error.abs() < 3.0 * ERROR, "{count} by word {word}: {error}");
            }
        }
    }

    #[test]
    fn the_standard_error_is_as_documented() {
        // At 2,000 the classical estimator switches formulas.
        for count in [100, 500, 2_000, 20_000] {
            let errors: Vec<f64> = (1..=100_u64)
                .map(|seed| {
                    let keys =
                        KEYS.map(|key| V4(seed as u32).hash(&[key; 9]) ^ V4(!(seed as u32)).hash(&KEYS));
                    error(&noted(0..count, &keys, 5_000), count, 5_000)
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / 100.0;
            let deviation = (errors.iter().map(|error| error * error).sum::<f64>() / 100.0).sqrt();
            // 100 rounds determine the deviation to 7 % and the mean to 0.46 %.
            assert!(deviation < 1.2 * ERROR, "{count}: {deviation}");
            assert!(mean.abs() < 0.3 * ERROR, "{count}: {mean}");
        }
    }

    #[test]
    fn few_sources_are_nearly_exact() {
        for count in 0..=5 {
            let sources = noted(0..count, &KEYS, 5_000);
            // Two sources may share a register.
            assert!(distinct(&sources, 5_000).count.abs_diff(u64::from(count)) <= 1);
        }
        assert_eq!(distinct(&Sources::default(), 5_000).count, 0);
    }

    #[test]
    fn duplicates_do_not_count() {
        let once = noted(0..500, &KEYS, 5_000);
        let often = noted((0..20_000).map(|number| number % 500), &KEYS, 5_000);
        assert_eq!(distinct(&once, 5_000), distinct(&often, 5_000));
    }

    #[test]
    fn the_complete_window_is_preferred_unless_the_running_one_has_more() {
        let mut sources = noted(0..100, &KEYS, WINDOW_MS - 1);
        let hundred = distinct(&sources, WINDOW_MS - 1);
        assert_eq!(hundred.window_ms, WINDOW_MS);
        assert_eq!(distinct(&sources, WINDOW_MS), hundred);
        for number in 0..50 {
            note(Shared::from_mut(&mut sources), v4(number), &KEYS, WINDOW_MS + 10);
        }
        assert_eq!(distinct(&sources, WINDOW_MS + 10), hundred);
        for number in 0..200 {
            note(Shared::from_mut(&mut sources), v4(number), &KEYS, WINDOW_MS + 99);
        }
        let more = distinct(&sources, WINDOW_MS + 99);
        assert!(more.count > 150);
        assert_eq!(more.window_ms, 100);
    }

    #[test]
    fn a_window_is_forgotten_when_it_is_over() {
        let mut sources = noted(0..10_000, &KEYS, 5_000);
        assert!(distinct(&sources, 2 * WINDOW_MS - 1).count > 8_000);
        assert_eq!(distinct(&sources, 2 * WINDOW_MS).count, 0);
        note(Shared::from_mut(&mut sources), v4(1), &KEYS, 2 * WINDOW_MS);
        assert_eq!(distinct(&sources, 2 * WINDOW_MS).count, 1);
        for windows in 2..2047 {
            assert!(distinct(&sources, 5_000 + windows * WINDOW_MS).count <= 1, "{windows}");
        }
    }

    #[test]
    fn the_clock_may_wrap() {
        for start in [u32::MAX, u32::MAX - WINDOW_MS, 0] {
            let sources = noted(0..10_000, &KEYS, start);
            for (later, remembered) in
                [(0, true), (WINDOW_MS, true), (2 * WINDOW_MS, false), (3 * WINDOW_MS, false)]
            {
                let count = distinct(&sources, start.wrapping_add(later)).count;
                assert_eq!(count > 8_000, remembered, "{start}, {later} ms later");
                assert_eq!(count == 0, !remembered);
            }
        }
    }

    #[test]
    fn samples_are_of_the_last_ten_seconds() {
        let sources = noted(1..=1, &KEYS, u32::MAX - 100);
        let count = |later| recent_samples(&sources, (u32::MAX - 100).wrapping_add(later)).count();
        assert_eq!([count(0), count(9_999), count(10_000), count(u32::MAX)], [1, 1, 0, 1]);
        let sample = recent_samples(&sources, u32::MAX).next().unwrap();
        assert_eq!(sample.address, v4(1).octets());
    }

    #[test]
    fn samples_keep_changing() {
        // One SYN in 64 ms, always from the same eight sources.
        let mut sources = Sources::default();
        for step in 0..1000 {
            note(Shared::from_mut(&mut sources), v4(step % 8), &KEYS, 1 + step * 64);
        }
        let now = 1 + 1000 * 64;
        assert!(sources.samples.iter().all(|sample| sample.at != 0));
        let recent: Vec<_> = recent_samples(&sources, now).collect();
        assert!(recent.len() > 48, "{}", recent.len());
        for source in 0..8 {
            assert!(recent.iter().any(|sample| sample.address == v4(source).octets()), "{source}");
        }
    }

    #[test]
    fn samples_show_who_sends_most() {
        // Three in four SYNs come from one network, in a flood of 200 SYNs per millisecond.
        let mut sources = Sources::default();
        for step in 0..40_000_u32 {
            let network = if step.wrapping_mul(0x9e37_79b1) >> 30 == 0 { 0xcb00_7100 } else { 0xc633_6400 };
            note(Shared::from_mut(&mut sources), v4(network | (step * 7 % 251)), &KEYS, 1 + step / 200);
        }
        let of_most = recent_samples(&sources, 201).filter(|sample| sample.address[12] == 0xc6).count();
        assert!((35..=60).contains(&of_most), "{of_most}");
    }

    #[test]
    fn other_keys_other_registers() {
        let (a, b) = (noted(0..100, &KEYS, 5_000), noted(0..100, &KEYS.map(|key| !key), 5_000));
        assert_ne!(a.registers, b.registers);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_estimate(register: u16, now: u32, address: u32, keys: TableKeys) {
            let mut sources = Sources { registers: [[register; SOURCE_REGISTERS]; 2], ..Sources::default() };
            distinct(&sources, now);
            note(Shared::from_mut(&mut sources), V4(address), &keys, now);
            prop_assert!(distinct(&sources, now).count > 0);
            prop_assert!(now == 0 || recent_samples(&sources, now).count() == 1);
        }
    }
}
