//! Connections at rest: the states that `stats` counts are those that `ss` shows.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result};
use defender::report::connection_list::STATES;
use defender_common::tcp_state::State;
use defender_testbed::controller::Controller;

use crate::{
    harness::{start, wait_active},
    states::bed::{Bed, OWNERS, Owner, Pair},
};

const REST: Duration = Duration::from_secs(2);

/// The counts of `stats --json`.
fn counts(defender: &Controller<'_>) -> Result<BTreeMap<String, u64>> {
    let statistics = defender.statistics()?;
    let states = statistics["states"].as_object().context("no states")?;
    states.iter().map(|(name, count)| Ok((name.clone(), count.as_u64().context("no count")?))).collect()
}

fn assert_counts(bed: &Bed, defender: &Controller<'_>, expected: &[(State, u64)]) -> Result<()> {
    thread::sleep(REST);
    let kernel = bed.kernel_counts()?;
    let counted = counts(defender)?;
    assert_eq!(counted, kernel, "what is counted is not what the kernel has");
    let expected: BTreeMap<String, u64> =
        STATES.into_iter().map(|state| (state.name().to_owned(), count_of(expected, state))).collect();
    assert_eq!(kernel, expected, "the kernel has other connections than were made");
    Ok(())
}

fn count_of(counts: &[(State, u64)], state: State) -> u64 {
    counts.iter().filter(|(other, _)| *other == state).map(|(_, count)| count).sum()
}

/// How many connections are in a state.
type Numbers = Vec<(State, u64)>;

/// Brings as many connections into each state as it has a number, so that no two states can be taken for one another.
fn bring_all<'a>(bed: &'a Bed, states: &[State]) -> Result<(Vec<Pair<'a>>, Numbers)> {
    let mut pairs = Vec::new();
    let mut counts = Vec::new();
    for (number, state) in (0..).zip(STATES) {
        if !states.contains(&state) {
            continue;
        }
        for one in 0..=number {
            for listener in &bed.listeners {
                pairs.push(bed.bring(listener, state, OWNERS[one % 2])?);
            }
        }
        counts.push((state, 2 * (number as u64 + 1)));
    }
    Ok((pairs, counts))
}

#[test]
fn every_state_is_counted_in_monitor() -> Result<()> {
    let bed = Bed::new()?;
    let defender = start(&bed.topology, &["--mode", "monitor"])?;
    let (_pairs, counts) = bring_all(&bed, &STATES)?;
    assert_counts(&bed, &defender, &counts)
}

#[test]
fn every_state_is_counted_in_always() -> Result<()> {
    let bed = Bed::new()?;
    let mut half_open = Vec::new();
    for listener in &bed.listeners {
        half_open.push(bed.half_open(listener)?);
    }
    let defender = start(&bed.topology, &["--mode", "always"])?;
    wait_active(&defender, 80)?;
    // A challenged SYN leaves nothing half open.
    let (_pairs, mut counts) = bring_all(&bed, &STATES[1..])?;
    counts.push((State::SynRecv, 2));
    assert_counts(&bed, &defender, &counts)
}

#[test]
fn connections_from_before_are_counted() -> Result<()> {
    let bed = Bed::new()?;
    let (_pairs, counts) = bring_all(&bed, &STATES)?;
    let defender = start(&bed.topology, &["--mode", "always"])?;
    wait_active(&defender, 80)?;
    assert_counts(&bed, &defender, &counts)
}

#[test]
fn aborted_connections_are_gone() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let defender = start(&bed.topology, &["--mode", mode])?;
        if mode == "always" {
            wait_active(&defender, 80)?;
        }
        let established = abort_all(&bed)?;
        assert_counts(&bed, &defender, &[])?;
        assert_eq!(defender.counter("flows_established")?, established);
        assert_eq!(defender.counter("flows_no_room")?, 0);
    }
    Ok(())
}

/// Resets connections in every state that a socket can be in, from either side; returns how many there were.
fn abort_all(bed: &Bed) -> Result<u64> {
    let mut count = 0;
    for state in &STATES[1..7] {
        for listener in &bed.listeners {
            for by_server in [true, false] {
                let mut pair = bed.bring(listener, *state, Owner::Process)?;
                if by_server {
                    // A client that has not heard of the server's FIN may prove its cookie once more (README, “The
                    // cookie”).
                    bed.lose_from(pair.remote)?;
                    pair.abort_server()?;
                } else {
                    pair.abort_client()?;
                }
                pair.wait_gone().with_context(|| format!("{state:?}, by the server: {by_server}"))?;
                count += 1;
            }
        }
    }
    Ok(count)
}
