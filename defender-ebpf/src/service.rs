//! Which service a packet is to.

use defender_common::{
    abi::{Service, ServiceKey},
    wire::address::Address,
};

use crate::maps::{ADDRESSES, PORTS, SERVICES};

/// A service and its id.
pub(crate) struct Found {
    pub(crate) id: u32,
    pub(crate) service: &'static Service,
}

/// Finds the service that listens on an address and port.
#[inline(always)]
pub(crate) fn find<A: Address>(address: A, port: u16) -> Option<Found> {
    let ports = PORTS.get(port as u32)?;
    let wildcard = if A::FAMILY == 0 { ports.wildcard4 } else { ports.wildcard6 };
    let id = match ports.bound {
        0 => wildcard as u32,
        1 if address.words() == ports.bound_address => ports.bound_id as u32,
        1 => wildcard as u32,
        _ => bound(address, port).unwrap_or(wildcard as u32),
    };
    if id == 0 {
        return None;
    }
    Some(Found { id, service: SERVICES.get(id)? })
}

#[inline(always)]
fn bound<A: Address>(address: A, port: u16) -> Option<u32> {
    let key = ServiceKey { address: address.octets(), port, reserved: 0 };
    // SAFETY: the value is a word, read at once.
    unsafe { ADDRESSES.get(key) }.copied()
}
