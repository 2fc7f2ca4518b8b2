//! What this host's own SYN-ACKs show of how it answers a listener's clients.

use crate::{
    abi::Learnt,
    wire::{
        address::Address,
        options::{NO_WINDOW_SCALE, Offer},
        tcp::Segment,
    },
};

/// Takes in a SYN-ACK that the kernel sends, and what its options say.
#[inline(always)]
pub fn syn_ack<A: Address>(learnt: &mut Learnt, segment: &Segment<A>, offer: &Offer) {
    let family = A::FAMILY & 1;
    learnt.window[family][offer.timestamps_index()] = segment.window;
    learnt.mss[family] = offer.mss;
    if offer.window_scale != NO_WINDOW_SCALE {
        learnt.window_scale_plus_one = offer.window_scale + 1;
    }
}
