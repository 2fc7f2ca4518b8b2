//! Who sends SYNs, see `defender_common::sources`.

use defender_common::{abi::Config, sources, wire::address::Address};

use crate::maps::SOURCES;

/// Notes where a SYN to a service came from.
#[inline(always)]
pub(crate) fn note<A: Address>(service: u32, source: A, config: &Config, now: u32) {
    if let Some(value) = SOURCES.get_ptr_mut(service) {
        // SAFETY: a map value of integers; CPUs that write at the same time cost a sample or a register's last step.
        sources::note(unsafe { &mut *value }, source, &config.table_keys, now);
    }
}
