//! SYN cookies: a handshake's negotiated options, stored by the client instead of by this host.
//!
//! What the 32 bits of our initial sequence number (ISN) hold, from the highest:
//!
//! | client's SYN | epoch | index | hash |
//! |---|---|---|---|
//! | with timestamps | 1 | 4: MSS ([`profile::mss_index`], 3), ECN (1) | 27 |
//! | without | 1 | 4: profile ([`profile::best`]) | 27 |
//!
//! With timestamps, the low five bits of our timestamp, which the client echoes, hold the rest: window scale (4; 15:
//! none), SACK (1). The hash is over all of it (and addresses, ports, the client's ISN, the window scale we
//! offered, the count of epochs), so an echo that was changed does not check.
//!
//! **Odds.** An attacker who cannot see our SYN-ACKs must guess the ISN. For one acknowledgement the epoch bit and the
//! index select one key and one set of options; the packet checks if the remaining 27 hash bits are right. Stated for all
//! that would be accepted: with K = 16 indices and E = 2 live epochs, K·E of the 2³² values check, which is 16·2/2³² =
//! 2⁻²⁷, with timestamps and without. Choosing other echoed bits, sequence numbers or ports gives new guesses, not
//! better ones: each is another input to the hash. The test `forgery_odds_at_reduced_width` counts it.
//!
//! **The first round trip.** The kernel measures it from the timestamp echoed, so a timestamp that lies behind the clock
//! makes the estimate too high. Every bit of options in it costs up to as many milliseconds as it counts: five bits cost 31
//! at the most, and the fifth index bit of the ISN that would take another off them would double the odds.
//!
//! **Rounds.** The hash is SipHash-1-3. SipHash-2-4 is the conservative choice for a PRF whose outputs an attacker sees in
//! full, for as long as the key lives; here 27 bits of each output are seen, a key lives for a minute, and what a
//! break would have to yield within it is a prediction for a tuple not seen. No attack on SipHash-1-3 comes near that
//! (its authors propose it for such uses, and hash tables of Rust's and other standard libraries rest on it). It saves 12 ns of a SYN.
//!
//! The epoch bit says which of two key slots made the cookie, so a check costs one hash. The controller refills one
//! slot every 30 seconds, so that a cookie lives between 30 and 60.

use crate::{
    abi::KeySlot,
    clock, profile,
    siphash::SipHash,
    wire::{
        address::{Address, Flow},
        options::{NO_WINDOW_SCALE, Offer},
    },
};

const EPOCH_SHIFT: u32 = 31;
/// Hash bits of the ISN.
const HASH_BITS: u32 = 27;
/// The bits of an index.
const INDEX: u32 = 0xf;
/// In the index with timestamps: ECN.
const ECN_BIT: u8 = 1 << 3;
/// The low bits of our timestamp that hold options.
const TERM_BITS: u32 = 0x1f;
const SACK_BIT: u32 = 1 << 4;

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedOptions {
    /// The client's MSS, at least what the kernel takes.
    pub mss: u16,
    /// The client's window scale, or [`NO_WINDOW_SCALE`]: then neither side scales.
    pub window_scale: u8,
    /// Our window scale; counts only if the client has one.
    pub our_window_scale: u8,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// ECN (RFC 3168).
    pub ecn: bool,
}

/// This host's part in the negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The interface's MSS.
    pub mss: u16,
    /// The window scale offered with this key slot.
    pub window_scale: u8,
}

/// What is put into a SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Our initial sequence number.
    pub isn: u32,
    /// What goes into our timestamp's low five bits.
    pub timestamp_bits: u32,
    /// The negotiated options, rounded to what the cookie can hold.
    pub negotiated: NegotiatedOptions,
}

/// The key slot that a cookie names, by the acknowledgement number that echoes it.
#[inline(always)]
pub const fn slot_of(acknowledgement: u32) -> u32 {
    acknowledgement.wrapping_sub(1) >> EPOCH_SHIFT
}

/// What a SYN is answered with, before its cookie is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// What would be agreed on.
    pub negotiated: NegotiatedOptions,
    /// This host's MSS.
    pub host_mss: u16,
    index: u8,
    timestamp_bits: u32,
}

impl Proposal {
    /// For an offer. `index` is its [`profile::index`]; `ecn`: the client asked for ECN and this host accepts it.
    #[inline(always)]
    pub fn new<A: Address>(offer: &Offer, index: u8, ecn: bool, host: Host) -> Self {
        if offer.timestamps {
            let index = index & profile::MSS_INDEX | if ecn { ECN_BIT } else { 0 };
            let timestamp_bits = offer.window_scale as u32 | if offer.sack { SACK_BIT } else { 0 };
            let negotiated = stamped_terms::<A>(index, timestamp_bits, host);
            return Self { negotiated, host_mss: host.mss, index, timestamp_bits };
        }
        let index = index & INDEX as u8;
        Self { negotiated: bare_terms::<A>(index, host), host_mss: host.mss, index, timestamp_bits: 0 }
    }

    /// The cookie for it.
    #[inline(always)]
    pub fn cookie<A: Address>(self, flow: &Flow<A>, client_isn: u32, slot: u32, key: &KeySlot) -> Cookie {
        let Self { negotiated, index, timestamp_bits, .. } = self;
        let input = Input { flow, client_isn, key, our_window_scale: negotiated.our_window_scale };
        let hash = input.hash(index, negotiated.timestamps, timestamp_bits);
        let isn = slot << EPOCH_SHIFT | (index as u32) << HASH_BITS | hash & low(HASH_BITS);
        Cookie { isn, timestamp_bits, negotiated }
    }
}

/// Checks the cookie that a segment acknowledges, with the key of the slot it names ([`slot_of`]).
///
/// `sequence` and `acknowledgement` are the segment's, which may carry data: an acknowledgement that was lost does not
/// change either number. `echo` is the timestamp echoed, if the segment has one.
#[inline(always)]
pub fn check<A: Address>(
    flow: &Flow<A>,
    sequence: u32,
    acknowledgement: u32,
    echo: Option<u32>,
    host: Host,
    key: &KeySlot,
) -> Option<NegotiatedOptions> {
    if key.filled == 0 {
        return None;
    }
    let isn = acknowledgement.wrapping_sub(1);
    let input =
        Input { flow, client_isn: sequence.wrapping_sub(1), key, our_window_scale: host.window_scale };
    let index = (isn >> HASH_BITS & INDEX) as u8;
    let bits = match echo {
        Some(echo) => echo & TERM_BITS,
        None => 0,
    };
    if (input.hash(index, echo.is_some(), bits) ^ isn) & low(HASH_BITS) != 0 {
        return None;
    }
    Some(if echo.is_some() { stamped_terms::<A>(index, bits, host) } else { bare_terms::<A>(index, host) })
}

/// Our timestamp in a SYN-ACK: the clock, moved by the connection's offset, its low bits replaced.
///
/// The result is never ahead of the clock, so that what the connection sends later is never older (RFC 7323, 5.3).
#[inline(always)]
pub const fn timestamp(clock: u32, offset: u32, bits: u32) -> u32 {
    let now = clock.wrapping_add(offset);
    now.wrapping_sub(now.wrapping_sub(bits) & TERM_BITS)
}

/// Our timestamp as the kernel is to go on with it from a hand-off, by the exact `clock`: it is the base of the kernel's
/// first sample of the round trip, so it is rounded up and that sample is never below the truth.
#[inline(always)]
pub const fn present_timestamp(clock: u32, offset: u32) -> u32 {
    clock.wrapping_add(offset).wrapping_add(1)
}

/// How long after a SYN-ACK segments of its handshake may come whose proof was lost, in milliseconds: a client sends what is
/// behind that again within two round trips (a tail loss probe, RFC 8985, section 7), and then the proof itself.
const HANDSHAKE_MS: u32 = 1_000;

/// Whether the timestamp that a segment echoes was sent so short a time ago that its handshake may be under way. `clock` and
/// `offset` are those of [`timestamp`].
#[inline(always)]
pub const fn may_be_under_way(echo: u32, clock: u32, offset: u32) -> bool {
    clock::age(echo.wrapping_sub(offset), clock) < HANDSHAKE_MS
}

/// The timestamp offset of a connection, in the lower half, and its IPv6 flow label, in the upper: what hides this host's
/// uptime. `hash` is [`Flow::hash`]; neither it nor `secret` ever changes, so time does not jump for a client that connects
/// again.
#[inline(always)]
pub fn timestamp_offset<A: Address>(flow: &Flow<A>, hash: u64, secret: [u64; 2]) -> u64 {
    // Nothing is decided by this value, so a cheap hash does. It is keyed apart from the tables, mixes all bits of their
    // hash, and takes in the client once more: who learns the offsets of connections does not learn which of them share a
    // place in the tables, nor which share a whole hash there.
    let multiplier = secret[1] | 1;
    let [first, second] = flow.source.halves();
    let client = (first ^ second).wrapping_mul(multiplier).wrapping_add(flow.ports() as u64);
    let mixed = (hash ^ secret[0]).wrapping_mul(multiplier).wrapping_add(client);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(multiplier);
    mixed.rotate_left(32)
}

#[inline(always)]
const fn low(bits: u32) -> u32 {
    (1 << bits) - 1
}

#[inline(always)]
fn stamped_terms<A: Address>(index: u8, bits: u32, host: Host) -> NegotiatedOptions {
    NegotiatedOptions {
        mss: at_least(profile::mss(A::FAMILY, index, host.mss), A::MIN_MSS),
        window_scale: (bits & 15) as u8,
        our_window_scale: host.window_scale,
        sack: bits & SACK_BIT != 0,
        timestamps: true,
        ecn: index & ECN_BIT != 0,
    }
}

#[inline(always)]
fn bare_terms<A: Address>(index: u8, host: Host) -> NegotiatedOptions {
    let profile = profile::get(A::FAMILY, index, host.mss, host.window_scale);
    NegotiatedOptions {
        mss: at_least(profile.mss, A::MIN_MSS),
        window_scale: profile.window_scale,
        our_window_scale: host.window_scale,
        sack: profile.sack,
        timestamps: false,
        ecn: false,
    }
}

#[inline(always)]
const fn at_least(value: u16, least: u16) -> u16 {
    if value < least { least } else { value }
}

impl NegotiatedOptions {
    /// Whether windows are scaled.
    #[inline(always)]
    pub fn scales(&self) -> bool {
        self.window_scale != NO_WINDOW_SCALE
    }
}

/// What is hashed.
struct Input<'a, A> {
    flow: &'a Flow<A>,
    client_isn: u32,
    key: &'a KeySlot,
    our_window_scale: u8,
}

impl<A: Address> Input<'_, A> {
    #[inline(always)]
    fn hash(&self, index: u8, timestamps: bool, bits: u32) -> u32 {
        let mut hash = SipHash::<1, 3>::new(self.key.begun);
        A::absorb(self.flow.source, self.flow.destination, |word| hash.word(word));
        hash.word(self.flow.ports() as u64 | (self.client_isn as u64) << 32);
        let negotiated = index as u64
            | (timestamps as u64) << 4
            | (bits as u64) << 8
            | (self.our_window_scale as u64) << 16;
        hash.finish(self.key.epoch as u64 | negotiated << 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::address::{V4, V6};
    use proptest::prelude::*;

    const HOST: Host = Host { mss: 1460, window_scale: 10 };

    fn key(seed: u64, epoch: u32) -> KeySlot {
        KeySlot::new([seed ^ 0x1234_5678_9abc_def0, seed.rotate_left(17)], epoch)
    }

    fn made<A: Address>(
        flow: &Flow<A>,
        isn: u32,
        offer: &Offer,
        ecn: bool,
        host: Host,
        slot: u32,
        key: &KeySlot,
    ) -> Cookie {
        let index = profile::index(A::FAMILY, offer, host.mss, host.window_scale);
        Proposal::new::<A>(offer, index, ecn, host).cookie(flow, isn, slot, key)
    }

    fn flow(seed: u32) -> Flow<V4> {
        Flow {
            source: V4(seed.wrapping_mul(0x9e37_79b9)),
            destination: V4(0x0101_cb0a),
            source_port: seed as u16,
            destination_port: 443,
        }
    }

    fn offers() -> impl Strategy<Value = Offer> {
        (any::<u16>(), 0u8..=15, any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
            |(mss, window_scale, sack, timestamps, timestamp)| {
                let window_scale = if window_scale == 15 { NO_WINDOW_SCALE } else { window_scale };
                Offer { mss, window_scale, sack, timestamps, timestamp, signed: false }
            },
        )
    }

    /// Any value of an ISN whose index bits, hash and timestamp flag are cut to `bits` hash bits: what [`check`] does, at
    /// a width that can be searched through.
    fn accepted_of_reduced(hash_bits: u32, timestamps: bool, bits: u32) -> u64 {
        let keys = [key(1, 6), key(2, 7)];
        let index_bits = INDEX.count_ones();
        let width = 1 + index_bits + hash_bits;
        (0..1u32 << width)
            .filter(|isn| {
                let slot = (isn >> (width - 1)) as usize;
                let index = (isn >> hash_bits & low(index_bits)) as u8;
                let input = Input { flow: &flow(7), client_isn: 99, key: &keys[slot], our_window_scale: 10 };
                (input.hash(index, timestamps, bits) ^ isn) & low(hash_bits) == 0
            })
            .count() as u64
    }

    #[test]
    fn forgery_odds_at_reduced_width() {
        // 12 hash bits instead of 27: for each epoch and index exactly one hash value checks, whatever bits the attacker
        // echoes: K·E of all values, so the share is 2^-(hash bits).
        for (timestamps, bits) in [(true, 0), (true, 0x15), (true, 0x1f), (false, 0)] {
            assert_eq!(accepted_of_reduced(12, timestamps, bits), 16 * 2);
        }
        assert_eq!((HASH_BITS, 1 + INDEX.count_ones() + HASH_BITS), (27, 32));
    }

    #[test]
    fn random_acknowledgements_do_not_check() {
        let keys = [key(3, 1), key(4, 2)];
        let mut guess = 1u32;
        for _ in 0..2_000_000 {
            guess = guess.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f);
            let echo = (guess & 1 == 0).then_some(guess >> 7);
            let slot = slot_of(guess) as usize;
            assert_eq!(check(&flow(guess), guess >> 3, guess, echo, HOST, &keys[slot]), None);
        }
    }

    #[test]
    fn the_timestamp_is_at_most_31_ms_behind_and_never_ahead() {
        for clock in (0..70_000).chain(u32::MAX - 70_000..=u32::MAX) {
            let bits = clock.wrapping_mul(7) & TERM_BITS;
            let value = timestamp(clock, 0xfff0, bits);
            let behind = clock.wrapping_add(0xfff0).wrapping_sub(value);
            assert!(behind <= 31, "{clock}: {behind}");
            assert_eq!(value & TERM_BITS, bits);
        }
    }

    proptest! {
        #[test]
        fn what_was_agreed_is_what_is_handed_over(
            seed: u64, client: u32, isn: u32, offer in offers(), ecn: bool, mss in 600u16..9000, clock: u32, slot in 0u32..2,
        ) {
            let (flow, key) = (flow(client), key(seed, slot));
            let host = Host { mss, window_scale: 9 };
            let ecn = ecn && offer.timestamps;
            let cookie = made(&flow, isn, &offer, ecn, host, slot, &key);
            prop_assert_eq!(slot_of(cookie.isn.wrapping_add(1)), slot);
            let echo = offer.timestamps.then(|| timestamp(clock, 77, cookie.timestamp_bits));
            let negotiated = check(&flow, isn.wrapping_add(1), cookie.isn.wrapping_add(1), echo, host, &key);
            prop_assert_eq!(negotiated, Some(cookie.negotiated));
            prop_assert_eq!(cookie.negotiated.timestamps, offer.timestamps);
            prop_assert_eq!(cookie.negotiated.ecn, ecn);
            if offer.timestamps {
                prop_assert_eq!(cookie.negotiated.window_scale, offer.window_scale);
                prop_assert_eq!(cookie.negotiated.sack, offer.sack);
            }
        }

        #[test]
        fn a_changed_packet_does_not_check(seed: u64, client: u32, isn: u32, offer in offers(), change in 1u32..) {
            let (flow, key) = (flow(client), key(seed, 5));
            let cookie = made(&flow, isn, &offer, false, HOST, 0, &key);
            let echo = offer.timestamps.then_some(cookie.timestamp_bits);
            let (sequence, ack) = (isn.wrapping_add(1), cookie.isn.wrapping_add(1));
            prop_assert!(check(&flow, sequence, ack, echo, HOST, &key).is_some());
            let elsewhere = Flow { source_port: flow.source_port ^ 1, ..flow };
            prop_assert_eq!(check(&elsewhere, sequence, ack, echo, HOST, &key), None);
            prop_assert_eq!(check(&flow, sequence ^ change, ack, echo, HOST, &key), None);
            let scale = Host { window_scale: HOST.window_scale ^ 1, ..HOST };
            prop_assert_eq!(check(&flow, sequence, ack, echo, scale, &key), None);
            let old = KeySlot { epoch: 6, ..key };
            prop_assert_eq!(check(&flow, sequence, ack, echo, HOST, &old), None);
            let empty = KeySlot { filled: 0, ..key };
            prop_assert_eq!(check(&flow, sequence, ack, echo, HOST, &empty), None);
            match echo {
                Some(echo) => {
                    prop_assert_eq!(check(&flow, sequence, ack, Some(echo ^ 1), HOST, &key), None);
                    prop_assert_eq!(check(&flow, sequence, ack, Some(echo ^ 0x10), HOST, &key), None);
                    prop_assert_eq!(check(&flow, sequence, ack, None, HOST, &key), None);
                }
                None => prop_assert_eq!(check(&flow, sequence, ack, Some(0), HOST, &key), None),
            }
        }

        #[test]
        fn ipv6_counts_every_byte_of_the_address(seed: u64, source: [u32; 4], isn: u32, byte in 0usize..16, side: bool) {
            let key = key(seed, 5);
            let flow = Flow { source: V6(source), destination: V6([1, 2, 3, 4]), source_port: 1, destination_port: 2 };
            let cookie = made(&flow, isn, &Offer::NONE, false, HOST, 1, &key);
            let mut other = flow;
            let address = if side { &mut other.source } else { &mut other.destination };
            address.0[byte / 4] ^= 1 << (8 * (byte % 4));
            let (sequence, ack) = (isn.wrapping_add(1), cookie.isn.wrapping_add(1));
            prop_assert!(check(&flow, sequence, ack, None, HOST, &key).is_some());
            prop_assert_eq!(check(&other, sequence, ack, None, HOST, &key), None);
        }
    }
}
