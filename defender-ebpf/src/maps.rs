//! The maps; their layouts are those of `defender_common::abi`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf},
};
use defender_common::{
    abi::{
        BudgetLines, Config, Counters, FilterBytes, FlowBucket, HalfOpenBuckets, Interfaces, Keys, Loads,
        MOST_PREFIXES, Ports, SERVICE_SLOTS, ServiceCounters, ServiceKey, Services, SourcesOfServices,
        TraceLines, ValidCookieBuckets, ValidSourceBytes,
    },
    shared::Shared,
};

/// How many prefixes of local addresses there may be.
const LOCAL_PREFIXES: u32 = 4096;
/// `BPF_F_MMAPABLE`: the controller maps the value and writes a part of it, as programs do. Also such an array begins at a
/// page's beginning, so that what is made to fill a cache line lies in one (`array_map_alloc`, kernel/bpf/arraymap.c).
const MAPPED: u32 = 1 << 10;
/// Bytes of pending events: they are rare.
const EVENT_BYTES: u32 = 64 * 1024;

// These have one value each, which programs read in place (`in_place!`); here it is said that there are such maps.
#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static KEYS: Array<Keys> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static INTERFACES: Array<Interfaces> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILTER: Array<FilterBytes> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static PORTS: Array<Ports> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static SERVICES: Array<Services> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static LOADS: Array<Loads> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static SOURCES: Array<SourcesOfServices> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static BUDGET: Array<BudgetLines> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static VALID_COOKIES: Array<ValidCookieBuckets> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static TRACE: Array<TraceLines> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static HALF_OPEN: Array<HalfOpenBuckets> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static VALID_SOURCES: Array<ValidSourceBytes> = Array::with_max_entries(1, MAPPED);

#[map]
pub(crate) static LOCAL: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(LOCAL_PREFIXES, 0);
#[map]
pub(crate) static ADDRESSES: HashMap<ServiceKey, u32> = HashMap::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> =
    PerCpuArray::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
// The settings say how large it is, and only an array of many values may be of a size that programs do not know.
#[map]
pub(crate) static FLOWS: Array<FlowBucket> = Array::with_max_entries(1, MAPPED);
#[map]
pub(crate) static PREFIXES: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(MOST_PREFIXES, 0);
#[map]
pub(crate) static CONNTRACK: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// The address of a map's one value. The argument is the number that stands for it until the loader puts the address in
/// (`defender_common::abi::in_place`).
macro_rules! in_place {
    ($number:path) => {{
        let value;
        // SAFETY: it loads a constant.
        unsafe {
            core::arch::asm!(
                "{value} = {number} ll",
                value = out(reg) value,
                number = const $number,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }};
}
pub(crate) use in_place;

/// An entry of a map's value that programs write.
#[inline(always)]
pub(crate) fn shared<T, const N: usize>(value: *mut [T; N], index: u32) -> &'static Shared<T> {
    // SAFETY: it is within a map's value, which lasts as long as the program. What programs write has no other references.
    unsafe { Shared::at(entry_of(value, index)) }
}

/// An entry of a map's value; every index has one.
#[inline(always)]
pub(crate) fn entry_of<T, const N: usize>(value: *mut [T; N], index: u32) -> *mut T {
    const { assert!(N.is_power_of_two() && N <= 1 << 31) };
    let mut index = index as u64;
    // In assembly, so that the compiler cannot take the mask out where it knows the index to be in bounds: the verifier may
    // not. It tracks no byte swap on kernels before 6.19 (`tnum_bswap`, kernel/bpf/tnum.c), and every port is one.
    // SAFETY: it changes a number in a register.
    unsafe {
        core::arch::asm!(
            "{index} &= {mask}",
            index = inlateout(reg) index,
            mask = const N - 1,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    value.cast::<T>().wrapping_add(index as usize)
}
