//! The engine: how a cookie is made, checked and handed over to the kernel.
//!
//! Nothing outside of this module knows which engine is at work. [`ENGINE`] selects it: the controller sets that constant as it
//! loads the programs, so the verifier knows the value and leaves out the branches of all other engines.
//!
//! A further engine is a module beside [`reqsk`] with the same functions, a number in `defender_common::abi::engine`, and
//! an arm in each function below; `defender/src/dataplane/engine.rs` is its counterpart. One that uses the kernel's own cookies makes and
//! checks them by `bpf_tcp_raw_gen_syncookie_ipv4` and `bpf_tcp_raw_check_syncookie_ipv4`. Its ACKs pass as they are,
//! because TCP completes the handshake by itself: for it, [`prove`] does nothing, and tcx ingress is left alone.

mod handoff;
mod reqsk;

use aya_ebpf::programs::TcContext;
use defender_common::{
    abi::{self, Handoff, Interface, Service},
    cookie::{Cookie, NegotiatedOptions, Proposal},
    wire::{Packet, address::Flow, options::Offer, tcp::Segment},
};

pub(crate) use self::handoff::{accept, tag as prove};
use crate::{
    context::PacketContext,
    socket::{SocketRef, Tupled},
};

/// The engine's number; the controller sets it.
#[unsafe(no_mangle)]
static ENGINE: u32 = abi::engine::REQSK;

/// The engine at work.
#[inline(always)]
pub(crate) fn selected() -> u32 {
    // SAFETY: a constant; volatile, because it is another one by the time the program runs.
    unsafe { (&raw const ENGINE).read_volatile() }
}

/// What a SYN is answered with.
pub(crate) struct Answer {
    /// The cookie, and the options it holds.
    pub(crate) cookie: Cookie,
    /// This host's timestamp, where the client has timestamps.
    pub(crate) timestamp: u32,
    /// The IPv6 flow label.
    pub(crate) flow_label: u32,
}

/// A connection that a segment proves.
pub(crate) struct Proof {
    /// What both sides agreed on.
    pub(crate) negotiated: NegotiatedOptions,
    /// The client's timestamp; 0: it sent none.
    pub(crate) timestamp: u32,
}

/// What the SYN at hand can be answered with; `engine` is the one [`selected`]. None: no cookie can be made yet.
#[inline(always)]
pub(crate) fn propose<A: Tupled>(
    engine: u32,
    context: &PacketContext<'_, A>,
    offer: &Offer,
) -> Option<Proposal> {
    match engine {
        abi::engine::REQSK => reqsk::propose(context, offer),
        _ => None,
    }
}

/// Makes the cookie for a proposal. The frame may have grown since.
#[inline(always)]
pub(crate) fn make<A: Tupled>(
    engine: u32,
    context: &mut PacketContext<'_, A>,
    proposal: Proposal,
) -> Option<Answer> {
    match engine {
        abi::engine::REQSK => Some(reqsk::make(context, proposal)),
        _ => None,
    }
}

/// Checks the cookie that a segment acknowledges. None: it is not valid.
#[inline(always)]
pub(crate) fn check<A: Tupled>(
    packet: &impl Packet,
    segment: &Segment<A>,
    interface: &Interface,
    service: &Service,
) -> Option<Proof> {
    match selected() {
        abi::engine::REQSK => reqsk::check(packet, segment, interface, service),
        _ => None,
    }
}

/// Hands a proven connection over to its listener, with the packet at hand. `hash` is the flow's.
#[inline(always)]
fn assign<A: Tupled>(
    ctx: &TcContext,
    listener: &SocketRef,
    (flow, hash): (&Flow<A>, u64),
    proof: &Proof,
) -> Handoff {
    match selected() {
        abi::engine::REQSK => reqsk::assign(ctx, listener, (flow, hash), proof),
        _ => Handoff::RefusedOther,
    }
}
