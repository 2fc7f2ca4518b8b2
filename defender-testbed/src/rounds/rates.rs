//! A flood's packet rates.

use std::time::Duration;

use anyhow::{Context as _, Result};
use defender_testbed::{
    flood::FloodHandle,
    interface,
    statistics::percentile,
    topology::{SERVER_INTERFACE, Topology},
};

use super::{
    readings::{Readings, Span},
    spent::Receiver,
};

/// SYNs of a flood per second, and their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Sent by the source.
    pub(crate) offered: f64,
    /// Received by the server end.
    pub(crate) taken: f64,
    /// Answered, as counted by the client end.
    pub(crate) answered: f64,
    /// Time of the thread that receives packets at the server end, in nanoseconds per packet received.
    pub(crate) nanoseconds: f64,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FloodCounts {
    sent: u64,
    taken: u64,
    answered: u64,
    spent: Duration,
}

/// What short intervals reach when undisturbed: a tenth of them reach at least this. A neighbour on the
/// same core makes moments slower, for minutes at times, but never faster than the machine is. So at full
/// load this is what the minimum is for the times of many runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best {
    pub(crate) answered: f64,
    pub(crate) nanoseconds: f64,
}

impl FloodCounts {
    /// Reads them, inside the server's namespace.
    pub(super) fn read(bed: &Topology, flood: Option<&FloodHandle<'_>>, receiver: &Receiver) -> Result<Self> {
        let client_end = bed.client_end().context("nothing counts at the client end")?;
        Ok(Self {
            sent: flood.map_or(Ok(0), FloodHandle::sent)?,
            taken: interface::own_statistics(SERVER_INTERFACE)?.rx_packets,
            answered: client_end.counters()?.spoofed(),
            spent: receiver.spent()?,
        })
    }
}

impl Best {
    /// From rates of short intervals.
    pub(super) fn of(rates: &[Rates]) -> Option<Self> {
        let numbers = |of: fn(&Rates) -> f64| rates.iter().map(of).collect::<Vec<_>>();
        Some(Self {
            answered: percentile(&numbers(|rates| rates.answered), 0.9)?,
            nanoseconds: percentile(&numbers(|rates| rates.nanoseconds), 0.1)?,
        })
    }
}

impl Rates {
    /// Over several intervals together. Zeros if there are none.
    pub(super) fn of(spans: &[Span<'_, FloodCounts>]) -> Self {
        let time: Duration = spans.iter().map(|span| span.to - span.from).sum();
        let count = |of: fn(&FloodCounts) -> u64| {
            spans.iter().map(|span| of(span.after) - of(span.before)).sum::<u64>() as f64
        };
        let rate = |of| count(of) / time.as_secs_f64().max(f64::EPSILON);
        let spent = count(|counts| counts.spent.as_nanos() as u64);
        Self {
            offered: rate(|counts| counts.sent),
            taken: rate(|counts| counts.taken),
            answered: rate(|counts| counts.answered),
            nanoseconds: spent / count(|counts| counts.taken).max(1.0),
        }
    }

    /// For each interval in which packets arrived.
    pub(super) fn of_each(spans: &[Span<'_, FloodCounts>]) -> Vec<Self> {
        spans.iter().map(|span| Self::of(&[*span])).filter(|rates| rates.taken > 0.0).collect()
    }
}

/// From the flood's first packet on, the intervals in which the processor ran at full speed. None if there
/// was no flood.
pub(super) fn flooded(readings: &Readings<FloodCounts>) -> Vec<Span<'_, FloodCounts>> {
    readings.at_full_speed().into_iter().filter(|span| span.after.sent > 0).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn rates_are_of_the_spans_alone() {
        let counts = |sent, taken, answered, micros| FloodCounts {
            sent,
            taken,
            answered,
            spent: Duration::from_micros(micros),
        };
        let (a, b) = (counts(100, 90, 0, 5), counts(300, 190, 50, 25));
        let (c, d) = (counts(10_000, 9000, 8000, 7000), counts(10_200, 9100, 8050, 7020));
        let from = Instant::now();
        let span = |before, after| Span { from, to: from + Duration::from_millis(20), before, after };
        let rates = Rates::of(&[span(&a, &b), span(&c, &d)]);
        let expected = Rates { offered: 10_000.0, taken: 5000.0, answered: 2500.0, nanoseconds: 200.0 };
        assert_eq!(rates, expected);
        assert_eq!(Rates::of(&[]), Rates::default());
    }

    #[test]
    fn the_best_tenth_is_the_fastest_and_the_cheapest() {
        let rates = |number| Rates { answered: number, nanoseconds: number, ..Rates::default() };
        let best = Best::of(&(1..=20).map(|number| rates(f64::from(number))).collect::<Vec<_>>()).unwrap();
        assert_eq!((best.answered, best.nanoseconds), (18.0, 2.0));
        assert!(Best::of(&[]).is_none());
    }
}
