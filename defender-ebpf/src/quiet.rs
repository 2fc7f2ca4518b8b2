//! Segments of quiet connections to services in calm: most of what a server gets in its life. What the pipeline would make
//! of them follows from less than it asks, so they pass before it, through a function that has little to remember.

use aya_ebpf::bindings::xdp_md;
use defender_common::{
    decide::Policy,
    filter::Noted,
    flow,
    verdict::Reason,
    wire::{
        Ip, PROTOCOL_TCP, Packet,
        address::{Address, V4, V6},
        ipv4, ipv6,
        tcp::{self, ACK},
    },
};

use crate::{
    MAX_NETWORK_OFFSET, account, config, filter, load, own_interface,
    packet::XdpPacket,
    service::{self, Found},
};

/// Whether an IPv4 packet belongs to a quiet connection; if so it has been counted, and passes.
#[inline(always)]
pub(crate) fn passes4(packet: &XdpPacket, network_offset: usize) -> bool {
    let words: Option<[u32; 10]> = packet.words(network_offset);
    let Some([_, _, third, .., ports, _, _, control, _]) = words else { return false };
    let [_, protocol, ..] = third.to_ne_bytes();
    may_be::<V4>(protocol, ports, control) && quiet_packet4(packet.context, network_offset as u64) != 0
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn passes6(packet: &XdpPacket, network_offset: usize) -> bool {
    let words: Option<[u32; 15]> = packet.words(network_offset);
    let Some([_, second, .., ports, _, _, control, _]) = words else { return false };
    let [_, _, next, _] = second.to_ne_bytes();
    may_be::<V6>(next, ports, control) && quiet_packet6(packet.context, network_offset as u64) != 0
}

/// What is asked first, of an IP header without options or extensions and the TCP header that follows on it: in a flood, or
/// of a SYN, nothing else is.
#[inline(always)]
fn may_be<A: Address>(protocol: u8, ports: u32, control: u32) -> bool {
    let flags = (u32::from_be(control) >> 16) as u8;
    protocol == PROTOCOL_TCP
        && flags & ACK != 0
        && flow::is_plain(flags)
        && is_calm::<A>(u32::from_be(ports) as u16)
}

/// Whether a port's one service, whatever the address, is in calm.
#[inline(always)]
fn is_calm<A: Address>(port: u16) -> bool {
    service::of_any_address::<A>(port)
        .is_some_and(|Found { id, service }| Policy::is_calm(service, load::of(id), config::config()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quiet_packet4(context: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(context);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let ip = ipv4::parse(&packet, network_offset);
    pass(&packet, network_offset + ipv4::HEADER_LEN, ip).is_some() as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quiet_packet6(context: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(context);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let ip = ipv6::parse(&packet, network_offset);
    pass(&packet, network_offset + ipv6::HEADER_LEN, ip).is_some() as u64
}

/// Counts a packet of a quiet connection. The TCP header is where [`may_be`] was told of one, or nothing is done.
#[inline(always)]
fn pass<A: Address>(packet: &XdpPacket, header: usize, ip: Result<Ip<A>, Reason>) -> Option<()> {
    let ip = ip.ok().filter(|ip| ip.transport == header)?;
    let interface = own_interface(packet)?;
    let flow = tcp::parse(packet, &ip).ok()?.flow;
    let config = config::config();
    let known = filter::noted(flow.mix(&config.table_keys), config);
    if known != Some(Noted::Quiet) || !config::is_local(interface, flow.destination) {
        return None;
    }
    account::verdict(account::counters()?, Reason::Monitored);
    Some(())
}
