//! The baseline of a service: its half-open connections and SYNs per second while no flood is mitigated. Pure.
//!
//! Each normal second is an observation. Observations are counted in buckets about 5 % wide, in a histogram for each
//! hour. The last 24 hours with normal seconds are kept.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How many hours are kept.
const HOURS: usize = 24;
/// Fewer observations say nothing.
pub const LEAST: u32 = 60;
/// A bucket ends where it begins times this.
const RATIO: f64 = 1.05;
/// An attack shows in the numbers before it is noticed: so many of the last observations wait, and count only if none
/// was noticed meanwhile.
const WAITING: usize = 5;
/// A service that was not seen for so many hours is forgotten.
const ABSENT: u64 = 7 * 24;

/// The baselines of services, by their endpoint as text (`0.0.0.0:443`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baselines(BTreeMap<String, Learner>);

impl Baselines {
    /// Takes in a second of a service: how many connections were half open, and how many SYNs came. `hour` is the
    /// number of the hour since the epoch. A second of an attack changes nothing.
    pub fn observe(&mut self, endpoint: &str, normal: bool, half_open: u32, syns: u32, hour: u64) {
        if normal {
            self.0.entry(endpoint.to_owned()).or_default().observe(half_open, syns, hour);
        } else if let Some(learner) = self.0.get_mut(endpoint) {
            learner.waiting.clear();
        }
    }

    /// The percentiles of a service's baseline.
    pub fn percentiles(&self, endpoint: &str) -> Percentiles {
        self.of(endpoint).map_or_else(Percentiles::default, |baseline| Percentiles {
            half_open_p99: baseline.half_open_p99(),
            syn_rate_p99: baseline.syn_rate_p99(),
        })
    }

    /// A service's baseline; none if nothing is known of it.
    pub fn of(&self, endpoint: &str) -> Option<&Baseline> {
        self.0.get(endpoint).map(|learner| &learner.baseline)
    }

    /// Forgets services that have not been there for a week.
    pub fn forget_absent(&mut self, hour: u64) {
        self.0.retain(|_, learner| learner.last_hour().is_some_and(|last| last + ABSENT > hour));
    }

    /// Whether nothing has been learnt of any service.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|learner| learner.baseline.hours.is_empty())
    }
}

/// The percentiles of a baseline, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// The 99th percentile of half-open connections.
    pub half_open_p99: Option<u32>,
    /// The 99th percentile of SYNs a second.
    pub syn_rate_p99: Option<u32>,
}

/// A service's baseline, and the observations that may yet turn out to be an attack's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Learner {
    baseline: Baseline,
    #[serde(skip)]
    waiting: VecDeque<(u32, u32, u64)>,
}

impl Learner {
    fn last_hour(&self) -> Option<u64> {
        let waiting = self.waiting.back().map(|(.., hour)| *hour);
        waiting.or(self.baseline.hours.back().map(|last| last.hour))
    }

    fn observe(&mut self, half_open: u32, syns: u32, hour: u64) {
        self.waiting.push_back((half_open, syns, hour));
        if self.waiting.len() > WAITING
            && let Some((half_open, syns, hour)) = self.waiting.pop_front()
        {
            self.baseline.observe(half_open, syns, hour);
        }
    }
}

/// The baseline of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// From the oldest.
    hours: VecDeque<Hour>,
}

/// The observations of an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Hour {
    /// Its number since the epoch.
    hour: u64,
    half_open: Histogram,
    syn_rate: Histogram,
}

impl Baseline {
    /// Takes in a normal second.
    pub fn observe(&mut self, half_open: u32, syns: u32, hour: u64) {
        // A clock that was ahead by more than a little was wrong.
        self.hours.retain(|past| past.hour <= hour + 1);
        if self.hours.back().is_none_or(|last| last.hour < hour) {
            self.hours.push_back(Hour { hour, ..Hour::default() });
        }
        while self.hours.len() > HOURS {
            self.hours.pop_front();
        }
        if let Some(last) = self.hours.back_mut() {
            last.half_open.count(half_open);
            last.syn_rate.count(syns);
        }
    }

    /// The 99th percentile of half-open connections, up to 5 % too high; none before [`LEAST`] observations.
    pub fn half_open_p99(&self) -> Option<u32> {
        p99(self.hours.iter().map(|hour| &hour.half_open))
    }

    /// The 99th percentile of SYNs a second, likewise.
    pub fn syn_rate_p99(&self) -> Option<u32> {
        p99(self.hours.iter().map(|hour| &hour.syn_rate))
    }
}

/// How many observations each bucket has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Histogram(BTreeMap<u16, u32>);

impl Histogram {
    fn count(&mut self, value: u32) {
        let count = self.0.entry(bucket(value)).or_default();
        *count = count.saturating_add(1);
    }
}

/// The bucket of a value: 0 has its own.
fn bucket(value: u32) -> u16 {
    if value == 0 { 0 } else { 1 + (f64::from(value).ln() / RATIO.ln()) as u16 }
}

/// The largest value of a bucket.
fn largest(bucket: u16) -> u32 {
    (RATIO.powi(bucket.into()).ceil() - 1.0) as u32
}

fn p99<'a>(hours: impl Iterator<Item = &'a Histogram>) -> Option<u32> {
    let mut sum: BTreeMap<u16, u64> = BTreeMap::new();
    for (bucket, count) in hours.flat_map(|histogram| &histogram.0) {
        *sum.entry(*bucket).or_default() += u64::from(*count);
    }
    let all: u64 = sum.values().sum();
    if all < LEAST.into() {
        return None;
    }
    // The rank of the value that 99 % do not exceed.
    let mut left = (all * 99).div_ceil(100);
    let found = sum.into_iter().find(|(_, count)| {
        left = left.saturating_sub(*count);
        left == 0
    });
    found.map(|(bucket, _)| largest(bucket))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn value() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..50, 0u32..100_000, any::<u32>()]
    }

    fn learnt(values: &[u32]) -> Baseline {
        let mut baseline = Baseline::default();
        for value in values {
            baseline.observe(*value, value / 2, 7);
        }
        baseline
    }

    #[test]
    fn a_clock_that_was_once_ahead_does_not_stop_the_window() {
        let mut baseline = Baseline::default();
        // Started with a wrong clock, which was then put right.
        (0..3600).for_each(|_| baseline.observe(1000, 1000, 900_000));
        for hour in 500_000..500_048 {
            (0..3600).for_each(|_| baseline.observe(5, 5, hour));
        }
        assert_eq!(baseline.half_open_p99(), Some(5));
    }

    #[test]
    fn nothing_is_usual_before_there_are_observations() {
        assert_eq!(learnt(&[5; 59]).half_open_p99(), None);
        let baseline = learnt(&[5; 60]);
        assert_eq!((baseline.half_open_p99(), baseline.syn_rate_p99()), (Some(5), Some(2)));
        assert_eq!(learnt(&[0; 60]).half_open_p99(), Some(0));
    }

    #[test]
    fn the_hour_before_the_last_24_is_forgotten() {
        let mut baseline = learnt(&[1_000_000; 3600]);
        for hour in 8..31 {
            baseline.observe(3, 3, hour);
        }
        assert!(baseline.half_open_p99().is_some_and(|p99| p99 >= 1_000_000));
        baseline.observe(3, 3, 31);
        assert_eq!(baseline.half_open_p99(), None, "24 observations are left");
        baseline.observe(3, 3, 8);
        assert!(baseline.hours.iter().all(|past| past.hour <= 9), "a clock that was set back");
    }

    #[test]
    fn what_is_gone_for_a_week_is_forgotten() {
        let mut learnt = Baselines::default();
        for _ in 0..70 {
            learnt.observe("[::]:80", true, 3, 3, 1000);
        }
        learnt.forget_absent(1000 + ABSENT - 1);
        assert_eq!(
            learnt.percentiles("[::]:80"),
            Percentiles { half_open_p99: Some(3), syn_rate_p99: Some(3) }
        );
        learnt.forget_absent(1000 + ABSENT);
        assert_eq!(learnt.percentiles("[::]:80"), Percentiles::default());
    }

    proptest! {
        #[test]
        fn p99_is_right_but_for_the_resolution(mut values in vec(value(), 60..400)) {
            let baseline = learnt(&values);
            values.sort_unstable();
            let exact = values[(values.len() * 99).div_ceil(100) - 1];
            let reported = baseline.half_open_p99().expect("enough observations");
            prop_assert!(reported >= exact && f64::from(reported) <= f64::from(exact) * RATIO, "{reported} for {exact}");
        }

        #[test]
        fn buckets_are_in_order(value: u32) {
            prop_assert!(largest(bucket(value)) >= value);
            prop_assert!(value == 0 || largest(bucket(value) - 1) < value);
        }

        #[test]
        fn an_attack_changes_nothing(normal in vec(value(), 70..200), attack in vec(value(), 1..200), early in 0usize..5) {
            let mut learnt = Baselines::default();
            for value in &normal {
                learnt.observe("[::]:80", true, *value, *value, 7);
            }
            // The last of these are before it was noticed.
            let before = learnt.of("[::]:80").cloned();
            let waiting = learnt.0["[::]:80"].waiting.len();
            for (index, value) in attack.iter().enumerate() {
                learnt.observe("[::]:80", index < early.min(WAITING - waiting), *value, *value, 8);
            }
            prop_assert_eq!(learnt.of("[::]:80").cloned(), before);
            prop_assert!(learnt.of("[::]:443").is_none());
        }

        #[test]
        fn it_survives_a_file(values in vec((value(), 0u64..40), 0..200)) {
            let mut learnt = Baselines::default();
            for (value, hour) in &values {
                learnt.observe("0.0.0.0:443", true, *value, value / 3, *hour);
            }
            let text = serde_json::to_string(&learnt).expect("JSON");
            let read: Baselines = serde_json::from_str(&text).expect("baselines");
            prop_assert_eq!(read.of("0.0.0.0:443"), learnt.of("0.0.0.0:443"));
        }
    }
}
