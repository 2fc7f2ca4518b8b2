//! What the controller has set.

use aya_ebpf::maps::lpm_trie::Key;
use defender_common::{
    abi::{
        CONFIG_PREFIXES, Config, INTERFACE_LOCAL_COMPLETE, INTERFACE_NO_METADATA, INTERFACE_PROBES,
        Interface, Interfaces, KeySlot, Keys, in_place, interface_slot,
    },
    verdict::Reason,
    wire::address::Address,
};

use crate::{
    atomic,
    maps::{LOCAL, PREFIXES, entry_of, in_place},
};

/// The global settings.
#[inline(always)]
pub(crate) fn config() -> &'static Config {
    let config: *const Config = in_place!(in_place::CONFIG);
    // SAFETY: for the number the loader has put in where the map's value is, which is as long as the program.
    unsafe { &*config }
}

#[inline(always)]
fn keys() -> &'static Keys {
    let keys: *const Keys = in_place!(in_place::KEYS);
    // SAFETY: as above.
    unsafe { &*keys }
}

/// A cookie key, if it was ever filled.
#[inline(always)]
pub(crate) fn key(slot: u32) -> Option<&'static KeySlot> {
    let key = key_slot(slot);
    (key.filled != 0).then_some(key)
}

/// A cookie key that is known to be filled.
#[inline(always)]
pub(crate) fn key_slot(slot: u32) -> &'static KeySlot {
    // By index: with a choice of two the verifier would follow what comes twice.
    &keys()[(slot & 1) as usize]
}

/// The settings of an interface.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<&'static Interface> {
    for probe in 0..INTERFACE_PROBES {
        // SAFETY: a map's value; the controller rewrites it seldom.
        let interface = unsafe { &*interface_at(ifindex, probe) };
        if interface.ifindex == ifindex {
            return Some(interface);
        }
    }
    None
}

#[inline(always)]
fn interface_at(ifindex: u32, probe: u32) -> *mut Interface {
    let interfaces: *mut Interfaces = in_place!(in_place::INTERFACES);
    entry_of(interfaces, interface_slot(ifindex, probe))
}

/// Notes that an interface's driver cannot carry metadata.
#[inline(always)]
pub(crate) fn set_no_metadata(ifindex: u32) {
    for probe in 0..INTERFACE_PROBES {
        let interface = interface_at(ifindex, probe);
        // SAFETY: a map's value; the controller rewrites it seldom.
        let Interface { ifindex: present, flags, .. } = unsafe { *interface };
        if present == ifindex {
            // SAFETY: a field of it.
            let word = unsafe { &raw mut (*interface).flags };
            // SAFETY: an aligned word; where the controller overwrites it, the next packet sets the bit again.
            unsafe { atomic::store(word, flags | INTERFACE_NO_METADATA) };
            return;
        }
    }
}

/// Whether an address is this host's.
#[inline(always)]
pub(crate) fn is_local<A: Address>(interface: &Interface, address: A) -> bool {
    if address.is_any_of(&interface.local4, &interface.local6) {
        return true;
    }
    let [first, second] = address.halves();
    interface.flags & INTERFACE_LOCAL_COMPLETE == 0 && local_prefix(first, second) != 0
}

// Global functions: keys take room on the stack.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn local_prefix(first: u64, second: u64) -> u64 {
    LOCAL.get(Key::new(128, [first, second])).is_some() as u64
}

/// `PREFIX_*` of an address: whether it is on a list. The longest prefix counts.
#[inline(always)]
pub(crate) fn listed<A: Address>(config: &Config, address: A) -> u32 {
    if config.flags & CONFIG_PREFIXES == 0 {
        return 0;
    }
    let [first, second] = address.halves();
    listed_prefix(first, second) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn listed_prefix(first: u64, second: u64) -> u64 {
    PREFIXES.get(Key::new(128, [first, second])).copied().unwrap_or(0) as u64
}

/// `reason` for packets to this host; others are not ours to judge.
#[inline(always)]
pub(crate) fn if_local<A: Address>(interface: &Interface, address: A, reason: Reason) -> Reason {
    if is_local(interface, address) { reason } else { Reason::NotLocal }
}
