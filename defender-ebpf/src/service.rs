//! Which service a packet is to.

use defender_common::{
    abi::{Port, Ports, Service, ServiceKey, Services, in_place},
    wire::address::{Address, V6},
};

use crate::maps::{ADDRESSES, entry_of, in_place};

/// A service and its id.
pub(crate) struct Found {
    pub(crate) id: u32,
    pub(crate) service: &'static Service,
}

/// Finds the service that listens on an address and port.
#[inline(always)]
pub(crate) fn find<A: Address>(address: A, port: u16) -> Option<Found> {
    let ports = services_of(port);
    let wildcard = wildcard::<A>(ports);
    let id = match ports.bound {
        0 => wildcard,
        1 if address.words() == ports.bound_address => ports.bound_id as u32,
        1 => wildcard,
        _ => match bound(address, port) {
            0 => wildcard,
            id => id,
        },
    };
    (id != 0).then(|| Found { id, service: of(id) })
}

/// The one service of a port, if there is one and it is not bound to an address.
#[inline(always)]
pub(crate) fn of_any_address<A: Address>(port: u16) -> Option<Found> {
    let services = services_of(port);
    let id = wildcard::<A>(services);
    (id != 0 && services.bound == 0).then(|| Found { id, service: of(id) })
}

/// The service of a port's every address; 0: there is none.
#[inline(always)]
fn wildcard<A: Address>(port: &Port) -> u32 {
    if A::FAMILY == 0 { port.wildcard4 as u32 } else { port.wildcard6 as u32 }
}

/// A service's settings.
#[inline(always)]
pub(crate) fn of(id: u32) -> &'static Service {
    let services: *mut Services = in_place!(in_place::SERVICES);
    let service = entry_of(services, id);
    // The compiler would otherwise compare it with 0 wherever there may be a service or none.
    // SAFETY: it is within a map's value.
    unsafe { core::hint::assert_unchecked(!service.is_null()) };
    // SAFETY: an entry of a map's value, of integers; the controller rewrites it seldom.
    unsafe { &*service }
}

#[inline(always)]
fn services_of(port: u16) -> &'static Port {
    let ports: *mut Ports = in_place!(in_place::PORTS);
    // SAFETY: as above.
    unsafe { &*entry_of(ports, port as u32) }
}

/// The service that is bound to an address and port; 0: there is none.
#[inline(always)]
fn bound<A: Address>(address: A, port: u16) -> u32 {
    let [first, second] = address.halves();
    bound_service(first, second, port as u64) as u32
}

// Global: its key takes room on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bound_service(first: u64, second: u64, port: u64) -> u64 {
    let key = ServiceKey { address: V6::from_halves(first, second).octets(), port: port as u16, reserved: 0 };
    // SAFETY: the value is a word, read at once.
    unsafe { ADDRESSES.get(key) }.copied().unwrap_or(0) as u64
}
