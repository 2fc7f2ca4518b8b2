//! Cookies: a valid cookie checks and returns its options, and a changed one does not check.

use std::fmt::Debug;

use defender_common::{
    abi::KeySlot,
    cookie::{self, Host, NegotiatedOptions, Proposal},
    profile,
    wire::{
        address::{Address, Flow, V4, V6},
        options::{NO_WINDOW_SCALE, Offer},
    },
};

use crate::bytes::FuzzInput;

pub(crate) fn run(data: &[u8]) {
    let mut input = FuzzInput(data);
    if input.bool() {
        let flow = input.flow_v6();
        let other = |by: u32| {
            let V6([a, b, c, d]) = flow.source;
            Flow { source: V6([a, b ^ by, c, d ^ by.rotate_left(9)]), ..flow }
        };
        round_trip(flow, other, &mut input);
    } else {
        let flow = input.flow_v4();
        let V4(source) = flow.source;
        round_trip(flow, |by| Flow { source: V4(source ^ by), ..flow }, &mut input);
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
struct CookieAnswer<A> {
    flow: Flow<A>,
    sequence: u32,
    acknowledgement: u32,
    echo: Option<u32>,
    host: Host,
    key: KeySlot,
}

impl<A: Address> CookieAnswer<A> {
    fn check(&self) -> Option<NegotiatedOptions> {
        let Self { flow, sequence, acknowledgement, echo, host, key } = self;
        cookie::check(flow, *sequence, *acknowledgement, *echo, *host, key)
    }
}

fn round_trip<A: Address + Debug>(flow: Flow<A>, other: impl Fn(u32) -> Flow<A>, input: &mut FuzzInput<'_>) {
    let (offer, isn, clock) = (input.offer(), input.u32(), input.u32());
    let ecn = input.bool() && offer.timestamps;
    let host = Host { mss: input.mss(), window_scale: input.u8() % NO_WINDOW_SCALE };
    let keys = [0; 2].map(|_| KeySlot::new([input.u64(), input.u64()], input.u32()));
    let slot = u32::from(input.bool());

    let index = profile::index(A::FAMILY, &offer, host.mss, host.window_scale);
    let offset = input.u32();
    let answers = keys.map(|key| {
        let made = Proposal::new::<A>(&offer, index, ecn, host).cookie(&flow, isn, slot, &key);
        let stamp = cookie::timestamp(clock, offset, made.timestamp_bits);
        assert!(clock.wrapping_add(offset).wrapping_sub(stamp) <= 31, "the timestamp is ahead of the clock");
        let answer = CookieAnswer {
            flow,
            sequence: isn.wrapping_add(1),
            acknowledgement: made.isn.wrapping_add(1),
            echo: offer.timestamps.then_some(stamp),
            host,
            key,
        };
        assert_eq!(cookie::slot_of(answer.acknowledgement), slot);
        assert_eq!(answer.check(), Some(made.negotiated));
        never_more_than_offered::<A>(&made.negotiated, &offer, &host, ecn);
        answer
    });
    changed(answers, other, input);
}

fn never_more_than_offered<A: Address>(
    negotiated: &NegotiatedOptions,
    offer: &Offer,
    host: &Host,
    ecn: bool,
) {
    assert!(negotiated.mss <= offer.mss.min(host.mss).max(A::MIN_MSS));
    assert!(!negotiated.sack || offer.sack);
    assert_eq!((negotiated.timestamps, negotiated.ecn), (offer.timestamps, ecn));
    assert!(
        !negotiated.scales()
            || offer.window_scale != NO_WINDOW_SCALE && negotiated.window_scale <= offer.window_scale
    );
    if offer.timestamps {
        assert_eq!((negotiated.sack, negotiated.window_scale), (offer.sack, offer.window_scale));
    }
}

/// Changes one thing. Another hash input may match the same 27 bits by chance, which many runs would hit.
/// So it is an error only if the same change checks with two different keys.
fn changed<A: Address + Debug>(
    answers: [CookieAnswer<A>; 2],
    other: impl Fn(u32) -> Flow<A>,
    input: &mut FuzzInput<'_>,
) {
    let what = input.u8();
    let by = 1 << (input.u8() & 31);
    let change = |answer: CookieAnswer<A>| {
        let mut changed = answer;
        match what % 9 {
            0 => changed.flow = other(by),
            1 => changed.flow.source_port ^= (by | by >> 16) as u16,
            2 => changed.flow.destination_port ^= (by | by >> 16) as u16,
            3 => changed.sequence ^= by,
            4 => changed.host.window_scale ^= 1 << (by.trailing_zeros() & 3),
            5 => changed.key.epoch ^= by,
            6 => changed.key.begun[(by & 3) as usize] ^= u64::from(by),
            7 => {
                // Bits 5 and up belong to the clock and have no meaning.
                let Some(echo) = &mut changed.echo else { return None };
                *echo ^= 1 << (by.trailing_zeros() % 5);
            }
            _ => changed.echo = if changed.echo.is_some() { None } else { Some(by) },
        }
        changed.check().map(|negotiated| (changed, negotiated))
    };
    let [one, two] = answers.map(change);
    assert!(one.is_none() || two.is_none(), "{answers:?}: {one:?} {two:?}");

    let [answer, _] = answers;
    // For a given index and epoch, exactly one hash value checks.
    let hash_bits = (1 << 27) - 1;
    let isn = answer.acknowledgement.wrapping_sub(1) ^ (input.u32() & hash_bits).max(1);
    assert_eq!(CookieAnswer { acknowledgement: isn.wrapping_add(1), ..answer }.check(), None);
    assert_eq!(CookieAnswer { key: KeySlot { filled: 0, ..answer.key }, ..answer }.check(), None);
}
