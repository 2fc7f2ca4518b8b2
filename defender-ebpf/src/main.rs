//! The eBPF programs: one function for each hook. What they decide is in `defender-common`.
#![no_std]
#![no_main]
// Kernel functions can only be called from inline assembly (conntrack/kfunc.rs, engine/reqsk.rs).
#![feature(asm_experimental_arch)]
#![expect(unstable_features, reason = "asm_experimental_arch")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros pass contexts by value")]

mod account;
mod atomic;
mod clock;
mod config;
mod conntrack;
mod context;
mod egress;
mod engine;
mod fast_path;
mod flow;
mod ingress;
mod limits;
mod listener;
mod load;
mod maps;
mod packet;
mod pipeline;
mod presence_filter;
mod service;
mod sock_common;
mod sock_state;
mod socket;
mod socket_iter;
mod sources;
mod syn_ack;
mod tcx;
mod trace;
mod validated_cookies;
mod validated_sources;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{btf_tracepoint, classifier, xdp},
    programs::{BtfTracePointContext, TcContext, XdpContext},
};

/// XDP in the driver. Frames may be larger than a page.
#[xdp(frags)]
fn defender_xdp(ctx: XdpContext) -> u32 {
    pipeline::run(&ctx)
}

/// XDP in generic mode, after the driver. The kernel makes frames linear first. A program that declares fragments would get a
/// socket buffer at tc whose data begin at the IP header (seen on 6.12 to 7.3).
#[xdp]
fn defender_xdp_skb(ctx: XdpContext) -> u32 {
    if conntrack::has_returned(&ctx) {
        // It went through the pipeline before.
        return xdp_action::XDP_PASS;
    }
    pipeline::run(&ctx)
}

/// tcx ingress: assigns what XDP tagged to its listener.
#[classifier]
fn defender_handoff(ctx: TcContext) -> i32 {
    engine::accept(&ctx)
}

/// Mends conntrack's entries of assigned connections. The hand-off calls it where there is conntrack.
#[classifier]
fn defender_conntrack(ctx: TcContext) -> i32 {
    conntrack::run(&ctx)
}

/// tcx egress: follows what this host sends.
#[classifier]
fn defender_egress(ctx: TcContext) -> i32 {
    egress::watch(&ctx);
    tcx::NEXT
}

/// Follows listeners, and the beginning and end of connections.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn defender_sock_state(ctx: BtfTracePointContext) -> i32 {
    sock_state::changed(&ctx);
    0
}

/// Confirms sockets in the presence filter and the flow table, one a call. The controller runs it.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
extern "C" fn defender_sockets(ctx: *mut socket_iter::IterTcp) -> i32 {
    socket_iter::confirm(ctx);
    0
}

/// Lists connections to services, one a call. Whoever reads its pin runs it.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
extern "C" fn defender_flows(ctx: *mut socket_iter::IterTcp) -> i32 {
    socket_iter::list(ctx);
    0
}

/// Lists the socket options of listeners, one a call. The controller runs it.
#[unsafe(link_section = "iter/tcp")]
#[unsafe(no_mangle)]
extern "C" fn defender_listeners(ctx: *mut socket_iter::IterTcp) -> i32 {
    socket_iter::listeners(ctx);
    0
}

/// The kernel lets only GPL-compatible programs call its functions.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
