//! Connections that the kernel's socket table may hold.
//!
//! Looking up random tuples in a flood misses the caches every time. This table of bytes is small enough to stay in them, and
//! rules out most unknown connections. It has no false negatives: whatever may have become a socket is noted. That is every SYN
//! that passes, every hand-off, every SYN that this host sends, and every socket that the iterator finds.
//!
//! A noted connection's byte is the number of the newest *generation*. To forget what has gone, the controller begins a new
//! generation, waits until all that was seen before is in the socket table, iterates over that, and then ends the older
//! generations. Whatever is alive has the new number by then. Two connections may share a byte, which costs a look-up. A byte is
//! written whole, so CPUs that write at the same time lose nothing.
//!
//! One bit of the byte says whether the packets of its connection are *tracked* one by one ([`Noted`]): they are while a
//! connection opens or closes, and are not once it is established.
//!
//! The filter stands in for the socket table only while the controller keeps it and the services current
//! ([`crate::abi::Config::filter_until`]), and only beyond a budget of look-ups, [`LOOKUPS`]. Below a heavy flood the socket
//! table itself is always asked, which also finds connections that moved here from another interface.

use crate::abi::{Config, FILTER_LEN};

/// How many unknown connections a second (1.024 s) each CPU looks up in the socket table before it trusts the filter.
/// At 130 ns each this is a quarter of a percent of its time.
pub const LOOKUPS: u32 = 20_000;

/// The bit that says that packets are followed; the others are the generation.
const TRACKED: u8 = 0x80;
const GENERATION: u8 = !TRACKED;

/// What is noted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is established: of its packets, only those that may change its state say anything.
    Established,
    /// It opens or closes: each of its packets may change its state.
    Tracked,
}

/// Where the byte is of the connection with this hash ([`crate::wire::address::Flow::hash`]), as the client names it.
#[inline(always)]
pub const fn place(hash: u64) -> usize {
    (hash >> (u64::BITS - FILTER_LEN.trailing_zeros())) as usize
}

/// What a connection's byte is set to when it is noted.
#[inline(always)]
pub const fn noted(config: &Config, noted: Noted) -> u8 {
    let followed = match noted {
        Noted::Established => 0,
        Noted::Tracked => TRACKED,
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
    } else if byte & TRACKED != 0 {
        Some(Noted::Tracked)
    } else {
        Some(Noted::Established)
    }
}

/// Whether the filter may stand in for the socket table. `now` is in milliseconds.
#[inline(always)]
pub const fn counts(config: &Config, now: u32) -> bool {
    config.filter_until != 0 && config.filter_until.wrapping_sub(now) as i32 > 0
}

/// The generation after `generation`: any but 0, which bytes have that were never written. While the numbers begin anew those
/// count as present until the iterator has run, which costs look-ups and nothing else.
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
            let noted_before = noted(&config(newest, oldest), Noted::Tracked);
            assert!(may_hold(noted_before, &config(newest, oldest)));
            newest = next(newest);
            let between = config(newest, oldest);
            assert!(may_hold(noted_before, &between));
            assert!(may_hold(noted(&between, Noted::Established), &between));
            let after = config(newest, newest);
            assert!(may_hold(noted(&between, Noted::Established), &after));
            assert!(!may_hold(noted_before, &after));
            assert!(!may_hold(0, &after));
        }
    }

    #[test]
    fn a_byte_says_whether_packets_are_followed() {
        for generation in 1..0x80 {
            let config = config(generation, generation);
            for what in [Noted::Established, Noted::Tracked] {
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
            let place = place(flow.hash(&keys));
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
            let place = place(flow.hash(&KEYS));
            taken.insert(place);
        }
        // Random places: 20,000 into 262,144 collide about 740 times.
        assert!(taken.len() > 19_000, "{}", taken.len());
    }
}
