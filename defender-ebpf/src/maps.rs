//! The maps; their layouts are those of `defender_common::abi`.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use defender_common::abi::{
    BUDGET_LINES, BudgetLine, Config, Counters, FilterBytes, FlowBucket, HALF_OPEN_BUCKETS, HalfOpenBucket,
    Interfaces, KNOWN_PAGE, KNOWN_PAGES, Keys, Learnt, Load, MOST_PREFIXES, Port, RECENT_BUCKETS,
    RecentBucket, SERVICE_SLOTS, Service, ServiceCounters, ServiceKey, Sources, TRACE_LINES, TraceLine,
};

/// How many prefixes of local addresses there may be.
const LOCAL_PREFIXES: u32 = 4096;
/// Has an array begin at a page's beginning, so that what is made to fill a cache line lies in one (`array_map_alloc`,
/// kernel/bpf/arraymap.c). `BPF_F_MMAPABLE` is what asks for that; nobody maps them.
const PAGE_ALIGNED: u32 = 1 << 10;
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
pub(crate) static FILTER: Array<FilterBytes> = Array::with_max_entries(1, PAGE_ALIGNED);

#[map]
pub(crate) static LOCAL: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(LOCAL_PREFIXES, 0);
#[map]
pub(crate) static PORTS: Array<Port> = Array::with_max_entries(65_536, 0);
#[map]
pub(crate) static ADDRESSES: HashMap<ServiceKey, u32> = HashMap::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static SERVICES: Array<Service> = Array::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static LEARNT: Array<Learnt> = Array::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> =
    PerCpuArray::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static RECENT: Array<RecentBucket> = Array::with_max_entries(RECENT_BUCKETS, PAGE_ALIGNED);
#[map]
pub(crate) static BUDGET: Array<BudgetLine> = Array::with_max_entries(BUDGET_LINES, PAGE_ALIGNED);
#[map]
pub(crate) static FLOWS: Array<FlowBucket> = Array::with_max_entries(1, PAGE_ALIGNED);
#[map]
pub(crate) static HALF_OPEN: Array<HalfOpenBucket> = Array::with_max_entries(HALF_OPEN_BUCKETS, PAGE_ALIGNED);
#[map]
pub(crate) static SOURCES: Array<Sources> = Array::with_max_entries(SERVICE_SLOTS, 0);
#[map]
pub(crate) static TRACE: Array<TraceLine> = Array::with_max_entries(TRACE_LINES, PAGE_ALIGNED);
#[map]
pub(crate) static LOADS: Array<Load> = Array::with_max_entries(SERVICE_SLOTS, PAGE_ALIGNED);
#[map]
pub(crate) static KNOWN: Array<[u8; KNOWN_PAGE]> = Array::with_max_entries(KNOWN_PAGES, PAGE_ALIGNED);
#[map]
pub(crate) static PREFIXES: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(MOST_PREFIXES, 0);
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
