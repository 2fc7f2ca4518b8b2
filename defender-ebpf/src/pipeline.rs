//! The packet's way through XDP: parse → classify → track → decide → rewrite | pass | drop → account.
//!
//! Each stage hands a value to the next. All ways end in [`conclude`], the one place that counts a packet and turns its reason
//! into an XDP action.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use defender_common::{
    abi::{Config, Counters, Interface, MODE_OFF},
    classify::{Class, classify},
    decide::{Policy, decide},
    field,
    presence_filter::Noted,
    shared::Shared,
    syn_ack::Replies,
    verdict::{Reason, Verdict},
    wire::{
        Ip,
        ethernet::{self, Frame, Network},
        ipv4, ipv6,
        tcp::{self, Segment},
    },
};

use crate::{
    account, clock, config,
    context::PacketContext,
    engine, fast_path,
    flow::{self, Presence},
    ingress::{MAX_NETWORK_OFFSET, own_interface},
    load::{self, Arrival},
    packet::XdpPacket,
    presence_filter,
    service::{self, Found},
    socket::{Looked, Tupled},
    sources, syn_ack, trace,
};

/// Takes a frame through the pipeline.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let packet = XdpPacket::of_xdp(ctx.ctx);
    let action = match ethernet::parse(&packet) {
        Ok(Frame { network: Network::V4, network_offset, .. }) => {
            match fast_path::judge4(&packet, network_offset) {
                Some(reason) => conclude_early(reason),
                None => ipv4_packet(ctx.ctx, network_offset as u64),
            }
        }
        Ok(Frame { network: Network::V6, network_offset, .. }) => {
            match fast_path::judge6(&packet, network_offset) {
                Some(reason) => conclude_early(reason),
                None => ipv6_packet(ctx.ctx, network_offset as u64),
            }
        }
        Ok(Frame { network: Network::Other, .. }) => conclude_early(Reason::NotIp),
        Err(reason) => conclude_early(reason),
    };
    action as u32
}

// Global functions: the verifier checks each by itself. The 512 bytes of stack are those of a whole chain of calls.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ipv4_packet(ctx: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(ctx);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let Some(counters) = account::counters() else { return xdp_action::XDP_PASS as u64 };
    let ip = ipv4::parse(&packet, network_offset);
    let reason = ip_packet(&packet, network_offset, ip, counters);
    conclude(counters, reason)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ipv6_packet(ctx: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(ctx);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let Some(counters) = account::counters() else { return xdp_action::XDP_PASS as u64 };
    let reason = match ipv6::parse(&packet, network_offset) {
        Err(Reason::ExtensionChain) => extension_chain(&packet, network_offset),
        ip => ip_packet(&packet, network_offset, ip, counters),
    };
    conclude(counters, reason)
}

/// Counts a packet and turns its reason into an XDP action.
#[inline(always)]
fn conclude(counters: &Shared<Counters>, reason: Reason) -> u64 {
    account::verdict(counters, reason);
    let action = match reason.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Tx => xdp_action::XDP_TX,
    };
    action as u64
}

/// [`conclude`] for packets that do not reach the IP stage.
#[inline(always)]
fn conclude_early(reason: Reason) -> u64 {
    account::counters().map_or(xdp_action::XDP_PASS as u64, |counters| conclude(counters, reason))
}

/// More IPv6 extension headers than are followed: dropped only if the packet is for this host.
#[inline(always)]
fn extension_chain(packet: &XdpPacket, network_offset: usize) -> Reason {
    let Some(interface) = own_interface(packet) else { return Reason::OtherMac };
    match ipv6::addresses(packet, network_offset) {
        Some((_, destination)) => config::if_local(interface, destination, Reason::ExtensionChain),
        None => Reason::MalformedIp,
    }
}

/// An IP packet of either family: parses TCP and classifies the segment.
#[inline(always)]
fn ip_packet<A: Replies + Tupled>(
    packet: &XdpPacket,
    network_offset: usize,
    ip: Result<Ip<A>, Reason>,
    counters: &Shared<Counters>,
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
    let hash = segment.flow.hash(&config.table_keys);
    let reason = judge(packet, network_offset, interface, (&segment, hash), class, config, counters);
    if class == Class::Syn && reason.may_open() {
        presence_filter::note(hash, config, Noted::Tracked);
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
    counters: &Shared<Counters>,
) -> Reason {
    let Some(found) = service::find(segment.flow.destination, segment.flow.destination_port) else {
        return Reason::Unprotected;
    };
    let load = load::of(found.id);
    let service = found.service;
    let local = !Policy::is_off(service, load) && config::is_local(interface, segment.flow.destination);
    let mut context = PacketContext::new(
        packet,
        network_offset,
        (segment, hash),
        interface,
        config,
        counters,
        (found.id, service, load, local),
    );
    let reason = match class {
        Class::Syn => handle_syn(&mut context, &found),
        class => handle_segment(&mut context, &found, class),
    };
    if trace::is_worth_it(reason) {
        // Where the presence filter ruled the peer out, there are more unknown peers than can be noted.
        let now = context.now();
        trace::note(&segment.flow, reason, config, field!(counters.noted), now, context.ruled_out);
    }
    reason
}

/// A SYN: counts it, decides at the level it leads to, and answers it if it is challenged.
#[inline(always)]
fn handle_syn<A: Replies + Tupled>(context: &mut PacketContext<'_, A>, found: &Found) -> Reason {
    let (segment, hash, config) = (context.segment, context.hash, context.config);
    let Some(counters) = account::of_service(found.id) else { return Reason::Unprotected };
    let time = clock::time();
    context.now = Some(time.ms);
    let watched = context.local && found.service.mode != MODE_OFF;
    let may_change_level = watched && load::may_change_level(found, context.load, time);
    if may_change_level {
        let looked = context.look();
        load::note_looked(found.id, looked);
    }
    let load = context.load;
    let Arrival { count, level } = if watched {
        load::count_syn(found, load, counters, time, may_change_level)
    } else {
        if found.service.mode == MODE_OFF {
            load::passes_unchallenged(load, time.ms);
        }
        Arrival::uncounted(load)
    };
    context.level = Some(level);
    let reason = match decide(Class::Syn, context) {
        Reason::SynChallenged => syn_ack::challenge(context),
        reason => reason,
    };
    if context.looked != Looked::NOT {
        load::note_looked(found.id, context.looked);
    }
    if reason == Reason::SynChallenged {
        load::sends_cookie(load, time.ms);
        if !context.ruled_out {
            flow::forget_stale(hash, config);
        }
    } else if !reason.is_syn() {
        return reason;
    } else if reason.verdict() == Verdict::Pass {
        let would = reason == Reason::SynMonitorMode && load::would_challenge(found, level);
        flow::opens(segment, hash, found.id, would);
        // The kernel checks a signature before it takes room in its queue.
        if reason != Reason::SynSigned {
            load::passes(found.id, context.looked, time.ms);
        }
    }
    account::syn(counters, reason);
    sources::note(found.id, segment.flow.source, context.now());
    if count != 0 && reason.would_be_half_open() {
        let replies = if reason.wants_reply() { count } else { 0 };
        load::load_averted(found.id as u64, (replies as u64) << 32 | count as u64, clock::epoch() as u64);
    }
    reason
}

/// A segment that is no SYN: looks its connection up, decides, and tags it if it proves a cookie.
#[inline(always)]
fn handle_segment<A: Tupled>(context: &mut PacketContext<'_, A>, found: &Found, class: Class) -> Reason {
    let presence = if context.local {
        flow::inbound(context.segment, context.hash, context.config)
    } else {
        Presence::Possible
    };
    context.presence = presence;
    let reason = match decide(class, context) {
        reason @ (Reason::Cookie | Reason::CookieRecent) => engine::prove(context, reason),
        reason => reason,
    };
    account::segment(found.id, reason, context.proofs as u64);
    if presence == Presence::Impossible && reason.is_out_of_state() {
        load::count_out_of_state(found.id, context.load, class == Class::Rst);
    }
    reason
}
