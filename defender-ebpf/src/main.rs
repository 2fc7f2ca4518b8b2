//! The datapath. Each program reads as a pipeline; what a step means is in `defender-common`.
#![no_std]
#![no_main]
// The kernel function that takes a hand-off can only be called from inline assembly (kfunc.rs).
#![feature(asm_experimental_arch)]
#![expect(unstable_features, reason = "asm_experimental_arch")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand contexts over by value")]

mod account;
mod answer;
mod atomic;
mod clock;
mod config;
mod egress;
mod filter;
mod flow;
mod handoff;
mod kfunc;
mod known;
mod load;
mod maps;
mod packet;
mod quiet;
mod recent;
mod service;
mod sock_common;
mod sock_state;
mod socket;
mod sources;
mod surroundings;
mod trace;
mod walk;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::{btf_tracepoint, classifier, xdp},
    programs::{BtfTracePointContext, TcContext, XdpContext},
};
use defender_common::{
    abi::{Config, Counters, Interface, MODE_OFF},
    classify::{Class, classify},
    decide::{Policy, decide},
    filter::Noted,
    reply::Replies,
    verdict::{Reason, Verdict},
    wire::{
        Ip,
        ethernet::{self, Frame, Network},
        ipv4, ipv6,
        tcp::{self, Segment},
    },
};

use crate::{
    flow::Known, handoff::Passage, packet::XdpPacket, service::Found, socket::Tupled, surroundings::Around,
};

/// parse → classify → decide → rewrite | pass | drop → account
#[xdp(frags)]
fn defender_xdp(ctx: XdpContext) -> u32 {
    let packet = XdpPacket::of_xdp(ctx.ctx);
    match ethernet::parse(&packet) {
        Ok(Frame { network: Network::V4, network_offset, .. }) => {
            if quiet::passes4(&packet, network_offset) {
                return xdp_action::XDP_PASS;
            }
            ipv4_packet(ctx.ctx, network_offset as u64) as u32
        }
        Ok(Frame { network: Network::V6, network_offset, .. }) => {
            if quiet::passes6(&packet, network_offset) {
                return xdp_action::XDP_PASS;
            }
            ipv6_packet(ctx.ctx, network_offset as u64) as u32
        }
        Ok(Frame { network: Network::Other, .. }) => unread(Reason::NotIp) as u32,
        Err(reason) => unread(reason) as u32,
    }
}

// Global functions: the verifier looks at each by itself, and each has a frame of eBPF's 512 bytes of stack of its own.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ipv4_packet(ctx: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(ctx);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let Some(counters) = account::counters() else { return xdp_action::XDP_PASS as u64 };
    let ip = ipv4::parse(&packet, network_offset);
    let reason = inbound(&packet, network_offset, ip, counters);
    conclude(counters, reason)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ipv6_packet(ctx: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(ctx);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let Some(counters) = account::counters() else { return xdp_action::XDP_PASS as u64 };
    let reason = match ipv6::parse(&packet, network_offset) {
        Err(Reason::ExtensionChain) => too_long(&packet, network_offset),
        ip => inbound(&packet, network_offset, ip, counters),
    };
    conclude(counters, reason)
}

/// No network header begins further behind: the verifier wants to see a bound.
const MAX_NETWORK_OFFSET: usize = 31;

/// A packet with too many extension headers: not ours to judge unless it is to this host.
#[inline(always)]
fn too_long(packet: &XdpPacket, network_offset: usize) -> Reason {
    let Some(interface) = own_interface(packet) else { return Reason::OtherMac };
    match ipv6::addresses(packet, network_offset) {
        Some((_, destination)) => config::if_local(interface, destination, Reason::ExtensionChain),
        None => Reason::MalformedIp,
    }
}

/// The end of a frame that holds no IP packet.
#[inline(always)]
fn unread(reason: Reason) -> u64 {
    account::counters().map_or(xdp_action::XDP_PASS as u64, |counters| conclude(counters, reason))
}

/// Counts a packet and says what XDP is to do with it.
#[inline(always)]
fn conclude(counters: &mut Counters, reason: Reason) -> u64 {
    account::verdict(counters, reason);
    let action = match reason.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Tx => xdp_action::XDP_TX,
    };
    action as u64
}

/// An IP packet, of either family.
#[inline(always)]
fn inbound<A: Replies + Tupled>(
    packet: &XdpPacket,
    network_offset: usize,
    ip: Result<Ip<A>, Reason>,
    counters: &mut Counters,
) -> Reason {
    let ip = match ip {
        Ok(ip) => ip,
        Err(Reason::MalformedIp) if own_interface(packet).is_none() => return Reason::OtherMac,
        Err(reason) => return reason,
    };
    let Some(interface) = own_interface(packet) else { return Reason::OtherMac };
    let segment = match tcp::parse(packet, &ip) {
        Ok(segment) => segment,
        Err(reason) => return config::if_local(interface, ip.destination, reason),
    };
    let config = config::config();
    let class = classify(segment.flags);
    let hash = segment.flow.mix(&config.table_keys);
    let reason = judge(packet, network_offset, interface, (&segment, hash), class, config, counters);
    if class == Class::Syn && reason.verdict() == Verdict::Pass {
        filter::note(hash, config, Noted::Followed);
    }
    reason
}

/// A TCP segment.
#[inline(always)]
fn judge<A: Replies + Tupled>(
    packet: &XdpPacket,
    network_offset: usize,
    interface: &Interface,
    (segment, hash): (&Segment<A>, u64),
    class: Class,
    config: &Config,
    counters: &mut Counters,
) -> Reason {
    let Some(found) = service::find(segment.flow.destination, segment.flow.destination_port) else {
        return Reason::Unprotected;
    };
    let load = load::of(found.id);
    let service = found.service;
    let local = !Policy::is_off(service) && config::is_local(interface, segment.flow.destination);
    let mut around = Around::new(
        packet,
        network_offset,
        (segment, hash),
        interface,
        config,
        counters,
        (service, load, local),
    );
    let reason = match class {
        Class::Syn => opening(&mut around, &found),
        class => going_on(&mut around, &found, class),
    };
    if trace::is_worth_it(reason) {
        // The filter speaks only where more strangers have come than are noted.
        let now = around.now();
        trace::note(&segment.flow, reason, config, &mut around.counters.noted, now, around.ruled_out);
    }
    reason
}

/// A SYN.
#[inline(always)]
fn opening<A: Replies + Tupled>(around: &mut Around<'_, A>, found: &Found) -> Reason {
    let (segment, hash, config) = (around.segment, around.hash, around.config);
    let Some(counters) = account::of_service(found.id) else { return Reason::Unprotected };
    let time = clock::time();
    around.now = Some(time.ms);
    let watched = around.local && found.service.mode != MODE_OFF;
    let count = if watched { load::arrives(found, around.load, counters, time) } else { 0 };
    let reason = match decide(Class::Syn, around) {
        Reason::SynChallenged => answer::challenge(around),
        reason => reason,
    };
    if reason == Reason::SynChallenged {
        if !around.ruled_out {
            flow::begins_anew(hash, config);
        }
    } else if !reason.is_syn() {
        return reason;
    } else if reason.verdict() == Verdict::Pass {
        let would = reason == Reason::SynMonitored && load::would_challenge(found);
        flow::opens(segment, hash, found.id, would);
    }
    account::syn(counters, reason);
    sources::note(found.id, segment.flow.source, around.now());
    if count != 0 && reason.would_be_half_open() {
        load::load_spared(found.id as u64, count as u64, clock::epoch() as u64);
    }
    reason
}

/// A segment that is no SYN.
#[inline(always)]
fn going_on<A: Tupled>(around: &mut Around<'_, A>, found: &Found, class: Class) -> Reason {
    let known =
        if around.local { flow::inbound(around.segment, around.hash, around.config) } else { Known::Perhaps };
    around.known = known;
    let reason = match decide(class, around) {
        reason @ (Reason::Cookie | Reason::CookieRecent) => handoff::announce(around, reason),
        reason => reason,
    };
    account::going_on(found.id, reason);
    if known == Known::No && reason.is_stray() {
        load::stray(found.id, around.load, class == Class::Rst);
    }
    reason
}

/// The interface that a frame came in by, if the frame is addressed to it.
#[inline(always)]
fn own_interface(packet: &XdpPacket) -> Option<&'static Interface> {
    let interface = config::interface(packet.ingress())?;
    (ethernet::destination(&packet.afresh())? == interface.mac).then_some(interface)
}

/// The hand-off: what XDP let pass with a mark is assigned to its listener. Others' programs always run after it.
#[classifier]
fn defender_handoff(ctx: TcContext) -> i32 {
    match handoff::accept(&ctx) {
        Passage::Open => TCX_NEXT,
        Passage::Closed => TCX_DROP,
    }
}

/// Learns from what the kernel answers.
#[classifier]
fn defender_egress(ctx: TcContext) -> i32 {
    egress::watch(&ctx);
    TCX_NEXT
}

/// Follows listeners, and the beginning and end of connections.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn defender_sock_state(ctx: BtfTracePointContext) -> i32 {
    sock_state::changed(&ctx);
    0
}

/// Tells the filter and the flow table what the socket table holds, one socket a call. Run by the controller.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
extern "C" fn defender_sockets(ctx: *mut walk::IterTcp) -> i32 {
    walk::confirm(ctx);
    0
}

/// Lists the connections to services, one a call. Run by whoever reads its pin.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
extern "C" fn defender_flows(ctx: *mut walk::IterTcp) -> i32 {
    walk::list(ctx);
    0
}

/// Go on with the next program at this hook (include/uapi/linux/bpf.h, `enum tcx_action_base`).
const TCX_NEXT: i32 = -1;
/// Drop the packet.
const TCX_DROP: i32 = 2;

/// The kernel lets only GPL-compatible programs call `bpf_sk_assign_tcp_reqsk`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
