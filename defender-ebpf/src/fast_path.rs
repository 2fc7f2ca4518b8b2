//! Fast path for data on established connections while their service is not mitigating. Fewer checks reach the same
//! verdict, in a function that has little to remember.

use aya_ebpf::bindings::xdp_md;
use defender_common::{
    decide::Policy,
    flow,
    presence_filter::Noted,
    verdict::Reason,
    wire::{
        Ip, PROTOCOL_TCP, Packet,
        address::{Address, V4, V6},
        ipv4, ipv6,
        tcp::{self, ACK},
    },
};

use crate::{
    config,
    ingress::{MAX_NETWORK_OFFSET, own_interface},
    load,
    packet::XdpPacket,
    presence_filter,
    service::{self, Found},
};

/// The verdict on an IPv4 packet, if it is on the fast path.
#[inline(always)]
pub(crate) fn judge4(packet: &XdpPacket, network_offset: usize) -> Option<Reason> {
    let words: [u32; 10] = packet.words(network_offset)?;
    let [_, _, third, .., ports, _, _, control, _] = words;
    let [_, protocol, ..] = third.to_ne_bytes();
    let found =
        may_be::<V4>(protocol, ports, control) && is_established4(packet.context, network_offset as u64) != 0;
    found.then_some(Reason::Established)
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn judge6(packet: &XdpPacket, network_offset: usize) -> Option<Reason> {
    let words: [u32; 15] = packet.words(network_offset)?;
    let [_, second, .., ports, _, _, control, _] = words;
    let [_, _, next, _] = second.to_ne_bytes();
    let found =
        may_be::<V6>(next, ports, control) && is_established6(packet.context, network_offset as u64) != 0;
    found.then_some(Reason::Established)
}

/// The first check, of an IP header without options or extensions and the TCP header behind it. SYNs, and packets in a flood,
/// are done here.
#[inline(always)]
fn may_be<A: Address>(protocol: u8, ports: u32, control: u32) -> bool {
    let flags = (u32::from_be(control) >> 16) as u8;
    protocol == PROTOCOL_TCP
        && flags & ACK != 0
        && flow::is_plain(flags)
        && is_normal::<A>(u32::from_be(ports) as u16)
}

/// Whether a port has one service, for every address, that is not mitigating.
#[inline(always)]
fn is_normal<A: Address>(port: u16) -> bool {
    service::of_any_address::<A>(port)
        .is_some_and(|Found { id, service }| Policy::is_normal(service, load::of(id), config::config()))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_established4(context: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(context);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let ip = ipv4::parse(&packet, network_offset);
    is_established(&packet, network_offset + ipv4::HEADER_LEN, ip).unwrap_or(false) as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_established6(context: *mut xdp_md, network_offset: u64) -> u64 {
    let packet = XdpPacket::of_xdp(context);
    let network_offset = network_offset as usize & MAX_NETWORK_OFFSET;
    let ip = ipv6::parse(&packet, network_offset);
    is_established(&packet, network_offset + ipv6::HEADER_LEN, ip).unwrap_or(false) as u64
}

/// Whether a packet for this host is on a connection that the presence filter notes as established. Its TCP header must be
/// where [`may_be`] looked.
#[inline(always)]
fn is_established<A: Address>(packet: &XdpPacket, header: usize, ip: Result<Ip<A>, Reason>) -> Option<bool> {
    let ip = ip.ok().filter(|ip| ip.transport == header)?;
    let interface = own_interface(packet)?;
    let flow = tcp::parse(packet, &ip).ok()?.flow;
    let config = config::config();
    let noted = presence_filter::noted(flow.hash(&config.table_keys), config);
    Some(noted == Some(Noted::Established) && config::is_local(interface, flow.destination))
}
