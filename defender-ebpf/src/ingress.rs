//! The frame at XDP: where its headers may begin, and whether it is for this host's interface.

use defender_common::{abi::Interface, wire::ethernet};

use crate::{config, packet::XdpPacket};

/// No network header begins further behind. The verifier needs a bound.
pub(crate) const MAX_NETWORK_OFFSET: usize = 31;

/// The interface that a frame came in by, if the frame's destination MAC address is the interface's.
#[inline(always)]
pub(crate) fn own_interface(packet: &XdpPacket) -> Option<&'static Interface> {
    let interface = config::interface(packet.ingress())?;
    (ethernet::destination(&packet.afresh())? == interface.mac).then_some(interface)
}
