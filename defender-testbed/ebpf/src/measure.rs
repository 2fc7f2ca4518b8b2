//! Measuring a program by test runs.
//!
//! A test run hands a program the same buffer again and again, so a SYN that became a SYN-ACK would take another way the
//! second time. `measure` writes the frame anew each time, from another flow, and calls the program. What it costs itself
//! is what a run with `bare_drop` in the program's place shows.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::{bpf_xdp_adjust_meta, bpf_xdp_adjust_tail},
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

use crate::{
    abi::{MEASURED_ANSWERS, MEASURED_LINES, MEASURED_MAX, MEASURED_PROGRAMS, Orders, SPREAD},
    ends::swap,
    packet::{at, read, read_u16},
};

#[map]
static ORDERS: Array<Orders> = Array::with_max_entries(1, 0);

/// Acknowledgement numbers, in the order in which flows come, in network byte order.
#[map]
static ANSWERS: Array<u32> = Array::with_max_entries(MEASURED_ANSWERS, 0);

#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(MEASURED_PROGRAMS, 0);

/// What [`one_read`] reads: as many lines as the meter says.
#[map]
static LINES: Array<[u64; 8]> = Array::with_max_entries(1, 0);

/// A bound for every place in a frame.
const PLACE: usize = MEASURED_MAX - 1;
const IP: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTO_TCP: u8 = 6;
const SEQUENCE_LOW: u32 = 6;
const ACKNOWLEDGEMENT: u32 = 8;
const URGENT: u32 = 18;
/// Odd, and its bits are as good as random.
const SCATTER: u64 = 0x9fb2_1c65_1e98_df25;

/// Writes a frame and calls the program that is measured.
#[xdp(frags)]
fn measure(ctx: XdpContext) -> u32 {
    let Some(orders) = ORDERS.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: one thread runs this program at a time, and the other side writes between runs.
    let orders = unsafe { &mut *orders };
    if renew(&ctx, orders).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the arguments are a context and a map of programs.
    unsafe { PROGRAMS.tail_call(&ctx, orders.program) };
    // Only where there is no such program.
    xdp_action::XDP_ABORTED
}

/// The least that can be done with a packet.
#[xdp(frags)]
fn bare_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Reads what tells a SYN, and drops it.
#[xdp(frags)]
fn parse_drop(ctx: XdpContext) -> u32 {
    match is_syn(&ctx) {
        Some(true) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Reads one word, by who sent the packet, of a table that has a line for every connection, and drops the packet.
#[xdp(frags)]
fn one_read(ctx: XdpContext) -> u32 {
    match line(&ctx) {
        Some(0) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// The least that can be done to send a packet back.
#[xdp(frags)]
fn bare_swap(ctx: XdpContext) -> u32 {
    match swap(&ctx, read_u16(&ctx, 12) == Some(ETHERTYPE_IPV6)) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Makes the frame as it is to be, of the next flow.
#[inline(always)]
fn renew(ctx: &XdpContext, orders: &mut Orders) -> Option<()> {
    let flows = (1 << (orders.flow_bits & 31)) - 1;
    let number = orders.next as u32 & flows;
    let flow = orders.next.wrapping_mul(SPREAD) as u32 & flows;
    orders.next += 1;
    renew_length(ctx, orders)?;
    copy(ctx, &orders.template);
    let low = (flow as u16).to_be();
    write(ctx, orders.source, low)?;
    if orders.identification != 0 {
        write(ctx, orders.identification, !low)?;
    }
    if orders.tcp != 0 {
        renew_tcp(ctx, orders, flow, low)?;
    }
    if orders.answers != 0 {
        renew_answer(ctx, orders, *ANSWERS.get(number)?)?;
    }
    Some(())
}

/// Undoes what the program did to length and metadata. Where programs leave metadata, it is done in any case: it costs as much
/// as the program's own part, and the method's is to be the same whatever it calls.
#[inline(always)]
fn renew_length(ctx: &XdpContext, orders: &Orders) -> Option<()> {
    let metadata = ctx.data() as i32 - ctx.metadata() as i32;
    if metadata > 0 || orders.answers != 0 {
        // SAFETY: the context is the one the kernel gave us; no pointer into the frame is used after this.
        let result = unsafe { bpf_xdp_adjust_meta(ctx.as_ptr().cast(), metadata) };
        if result != 0 {
            return None;
        }
    }
    let missing = orders.len as i32 - (ctx.data_end() as i32 - ctx.data() as i32);
    // SAFETY: as above.
    if missing != 0 && unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), missing) } != 0 {
        return None;
    }
    Some(())
}

/// Writes what of the template fits the frame, whose length is even.
#[inline(always)]
fn copy(ctx: &XdpContext, template: &[u64; MEASURED_MAX / 8]) {
    let mut written = 0;
    for (index, word) in template.iter().enumerate() {
        let Some(place) = at::<u64>(ctx, index * 8) else { break };
        // SAFETY: `at` checked that the word lies inside the frame.
        unsafe { place.write_unaligned(*word) };
        written = index + 1;
    }
    let rest = template.get(written).copied().unwrap_or(0);
    for half in 0..3 {
        let Some(place) = at::<u16>(ctx, (written * 8 + half * 2) & PLACE) else { break };
        // SAFETY: as above.
        unsafe { place.write_unaligned((rest >> (16 * half)) as u16) };
    }
}

/// Ports and numbers. Sums stay what they are in the template: a number that is added is taken off another.
#[inline(always)]
fn renew_tcp(ctx: &XdpContext, orders: &Orders, flow: u32, low: u16) -> Option<()> {
    let port = ((orders.first_port + (flow >> 16)) as u16).to_be();
    let service = (u64::from(flow) * u64::from(orders.services)) >> (orders.flow_bits & 31);
    let service = ((orders.service_port + service as u32) as u16).to_be();
    write(ctx, orders.tcp, port)?;
    write(ctx, orders.tcp + 2, service)?;
    write(ctx, orders.tcp + SEQUENCE_LOW, complement(&[low, port, service]))?;
    Some(())
}

#[inline(always)]
fn renew_answer(ctx: &XdpContext, orders: &Orders, answer: u32) -> Option<()> {
    let (first, second) = (answer as u16, (answer >> 16) as u16);
    write(ctx, orders.tcp + ACKNOWLEDGEMENT, first)?;
    write(ctx, orders.tcp + ACKNOWLEDGEMENT + 2, second)?;
    write(ctx, orders.tcp + URGENT, complement(&[first, second]))
}

/// What makes the sum of words nothing.
#[inline(always)]
fn complement(words: &[u16]) -> u16 {
    let sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[inline(always)]
fn write(ctx: &XdpContext, offset: u32, value: u16) -> Option<()> {
    let place = at::<u16>(ctx, offset as usize & PLACE)?;
    // SAFETY: `at` checked that the word lies inside the frame.
    unsafe { place.write_unaligned(value) };
    Some(())
}

/// What stands in the line of an IPv4 packet's flow.
#[inline(always)]
fn line(ctx: &XdpContext) -> Option<u64> {
    let (source, ports) = (read::<u32>(ctx, IP + 12)?, read::<u32>(ctx, IP + 20)?);
    let hash = (u64::from(source) << 32 | u64::from(ports)).wrapping_mul(SCATTER);
    LINES.get((hash >> (64 - MEASURED_LINES.trailing_zeros())) as u32).map(|line| line[0])
}

#[inline(always)]
fn is_syn(ctx: &XdpContext) -> Option<bool> {
    let (protocol, tcp) = match read_u16(ctx, 12)? {
        ETHERTYPE_IPV4 => (IP + 9, IP + 20),
        _ => (IP + 6, IP + 40),
    };
    let ports = read::<[u16; 2]>(ctx, tcp)?;
    Some(
        read::<u8>(ctx, protocol)? == PROTO_TCP && ports[1] != 0 && read::<u8>(ctx, tcp + 13)? & 0x12 == 0x02,
    )
}
