//! Connections that the kernel's socket table may hold.
//!
//! Looking up random tuples in a flood misses the caches every time. This table of bytes, small enough to stay in
//! them, says of most strangers that the socket table cannot hold them. It errs on the other side only: whatever may
//! have become a socket is noted, namely every SYN that passes, every hand-off, every SYN that this host sends, and
//! all that the socket table itself holds when it is walked through.
//!
//! A noted connection's byte is the number of the newest *generation*. To forget what has gone, the controller begins
//! a new generation, waits until all that was seen before is in the socket table, walks through that, and then
//! declares the older generations gone: what is alive has the new number by then. Two connections may share a byte,
//! which costs a look-up and nothing else. A byte is written whole, so CPUs that write at the same time lose nothing.
//!
//! A bit of the byte says whether the packets of its connection are to be *followed* one by one ([`Noted`]): while a
//! connection opens or closes they are, and once it is established they are not.
//!
//! Where the filter's word counts at all: only while the controller keeps it and the table of services true
//! ([`crate::abi::Config::filter_until`]), and only beyond a budget of real look-ups, [`LOOKUPS`]: so below a heavy
//! flood the socket table itself is always asked, and connections that moved here from another interface are found.

use crate::abi::{Config, FILTER_LEN};

/// How many strangers a second (1.024 s) each CPU asks the socket table about before it takes the filter's word.
/// At 130 ns each this is a quarter of a percent of its time.
pub const LOOKUPS: u32 = 20_000;

/// The bit that says that packets are followed; the others are the generation.
const FOLLOWED: u8 = 0x80;
const GENERATION: u8 = !FOLLOWED;

/// What is noted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is established: of its packets, only those that may change its state say anything.
    Quiet,
    /// It opens or closes: each of its packets may change its state.
    Followed,
}

/// Where the byte is of the connection with this hash ([`crate::wire::address::Flow::mix`]), as the client names it.
#[inline(always)]
pub const fn place(hash: u64) -> usize {
    (hash >> (u64::BITS - FILTER_LEN.trailing_zeros())) as usize
}

/// What a connection's byte is set to when it is noted.
#[inline(always)]
pub const fn noted(config: &Config, noted: Noted) -> u8 {
    let followed = match noted {
        Noted::Quiet => 0,
        Noted::Followed => FOLLOWED,
    };
    config.filter_newest as u8 & GENERATION | followed
}

/// Whether a byte says that a connection may be there.
#[inline(always)]
pub const fn may_hold(byte: u8, config: &Config) -> bool {
    let age = (config.filter_newest as u8).wrapping_sub(config.filter_oldest as u8) & GENERATION;
    byte.wrapping_sub(config.filter_oldest as u8) & GENERATION <= age
}

/// What a byte says of a connection; none: it cannot be there.
#[inline(always)]
pub const fn read(byte: u8, config: &Config) -> Option<Noted> {
    if !may_hold(byte, config) {
        None
    } else if byte & FOLLOWED != 0 {
        Some(Noted::Followed)
    } else {
        Some(Noted::Quiet)
    }
}

/// Whether the filter may stand in for the socket table. `now` is in milliseconds.
#[inline(always)]
pub const fn counts(config: &Config, now: u32) -> bool {
    config.filter_until != 0 && config.filter_until.wrapping_sub(now) as i32 > 0
}

/// The generation after `generation`: any but 0, which bytes have that were never written. While the numbers begin anew those
/// count as present for the length of a walk, which costs look-ups and nothing else.
pub const fn next(generation: u32) -> u32 {
    let next = (generation + 1) & GENERATION as u32;
    if next == 0 { 1 } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::TableKeys,
        wire::address::{Flow, KEYS, V4},
    };
    use proptest::prelude::*;

    fn config(newest: u32, oldest: u32) -> Config {
        Config { filter_newest: newest, filter_oldest: oldest, ..Config::default() }
    }

    #[test]
    fn a_new_generation_forgets_nothing_before_the_old_one_is_gone() {
        let mut newest = 1;
        for _ in 0..600 {
            let oldest = newest;
            let noted_before = noted(&config(newest, oldest), Noted::Followed);
            assert!(may_hold(noted_before, &config(newest, oldest)));
            newest = next(newest);
            let between = config(newest, oldest);
            assert!(may_hold(noted_before, &between));
            assert!(may_hold(noted(&between, Noted::Quiet), &between));
            let after = config(newest, newest);
            assert!(may_hold(noted(&between, Noted::Quiet), &after));
            assert!(!may_hold(noted_before, &after));
            assert!(!may_hold(0, &after));
        }
    }

    #[test]
    fn a_byte_says_whether_packets_are_followed() {
        for generation in 1..0x80 {
            let config = config(generation, generation);
            for what in [Noted::Quiet, Noted::Followed] {
                assert_eq!(read(noted(&config, what), &config), Some(what));
            }
            assert_eq!(read(0, &config), None);
        }
    }

    #[test]
    fn it_counts_only_as_long_as_the_controller_says() {
        let until = |filter_until| Config { filter_until, ..Config::default() };
        assert!(!counts(&until(0), 5));
        assert!(counts(&until(10), 9));
        assert!(!counts(&until(10), 10));
        assert!(counts(&until(3), u32::MAX - 5));
        assert!(!counts(&until(u32::MAX - 5), 3));
    }

    proptest! {
        #[test]
        fn places_are_within_and_need_no_certain_keys(source: u32, port: u16, keys: TableKeys) {
            let flow = Flow { source: V4(source), destination: V4(1), source_port: port, destination_port: 443 };
            let place = place(flow.mix(&keys));
            prop_assert!(place < FILTER_LEN);
        }
    }

    #[test]
    fn places_are_spread() {
        let mut taken = std::collections::HashSet::new();
        for source in 0..20_000u32 {
            let flow = Flow {
                source: V4(source.to_be()),
                destination: V4(1),
                source_port: 5,
                destination_port: 443,
            };
            let place = place(flow.mix(&KEYS));
            taken.insert(place);
        }
        // Random places: 20,000 into 262,144 collide about 740 times.
        assert!(taken.len() > 19_000, "{}", taken.len());
    }
}
