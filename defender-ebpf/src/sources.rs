//! Notes who sends SYNs, see `defender_common::sources`.

use defender_common::{
    abi::{SourcesOfServices, in_place},
    sources,
    wire::address::{Address, V4, V6},
};

use crate::{
    config,
    maps::{in_place, shared},
};

/// Notes where a SYN to a service came from.
#[inline(always)]
pub(crate) fn note<A: Address>(service: u32, source: A, now: u32) {
    let when = (now as u64) << 32 | service as u64;
    let [first, second] = source.halves();
    if A::FAMILY == 0 {
        sources_note4(when, second >> 32);
    } else {
        sources_note6(when, first, second);
    }
}

// Global functions: the verifier looks at each once, not once for every way that leads there.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sources_note4(when: u64, address: u64) -> u64 {
    note_at(when, V4(address as u32))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sources_note6(when: u64, first: u64, second: u64) -> u64 {
    note_at(when, V6::from_halves(first, second))
}

#[inline(always)]
fn note_at<A: Address>(when: u64, source: A) -> u64 {
    let of_services: *mut SourcesOfServices = in_place!(in_place::SOURCES);
    sources::note(
        shared(of_services, when as u32),
        source,
        &config::config().table_keys,
        (when >> 32) as u32,
    );
    0
}
