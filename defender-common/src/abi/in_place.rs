//! Numbers that stand for the addresses of map values.
//!
//! Programs read maps of one value in place: the value's address is part of their code, so there is no look-up. Each map has a
//! number that stands for the address until the loader has put that in (`defender-ebpf/src/maps.rs`).

/// Stands for the address of the value of [`super::map::CONFIG`].
pub const CONFIG: u64 = 0x7dfd_0011_7dfd_0012;
/// Stands for the address of the value of [`super::map::KEYS`].
pub const KEYS: u64 = 0x7dfd_0021_7dfd_0022;
/// Stands for the address of the value of [`super::map::INTERFACES`].
pub const INTERFACES: u64 = 0x7dfd_0031_7dfd_0032;
/// Stands for the address of the value of [`super::map::FILTER`].
pub const FILTER: u64 = 0x7dfd_0041_7dfd_0042;
/// Stands for the address of the value of [`super::map::PORTS`].
pub const PORTS: u64 = 0x7dfd_0051_7dfd_0052;
/// Stands for the address of the value of [`super::map::SERVICES`].
pub const SERVICES: u64 = 0x7dfd_0061_7dfd_0062;
/// Stands for the address of the value of [`super::map::LOADS`].
pub const LOADS: u64 = 0x7dfd_0071_7dfd_0072;
/// Stands for the address of the value of [`super::map::SOURCES`].
pub const SOURCES: u64 = 0x7dfd_0081_7dfd_0082;
/// Stands for the address of the value of [`super::map::BUDGET`].
pub const BUDGET: u64 = 0x7dfd_0091_7dfd_0092;
/// Stands for the address of the value of [`super::map::VALID_COOKIES`].
pub const VALID_COOKIES: u64 = 0x7dfd_00a1_7dfd_00a2;
/// Stands for the address of the value of [`super::map::TRACE`].
pub const TRACE: u64 = 0x7dfd_00b1_7dfd_00b2;
/// Stands for the address of the value of [`super::map::HALF_OPEN`].
pub const HALF_OPEN: u64 = 0x7dfd_00c1_7dfd_00c2;
/// Stands for the address of the value of [`super::map::VALID_SOURCES`].
pub const VALID_SOURCES: u64 = 0x7dfd_00d1_7dfd_00d2;

/// Each map and its number.
pub const ALL: [(&str, u64); 13] = [
    (super::map::CONFIG, CONFIG),
    (super::map::KEYS, KEYS),
    (super::map::INTERFACES, INTERFACES),
    (super::map::FILTER, FILTER),
    (super::map::PORTS, PORTS),
    (super::map::SERVICES, SERVICES),
    (super::map::LOADS, LOADS),
    (super::map::SOURCES, SOURCES),
    (super::map::BUDGET, BUDGET),
    (super::map::VALID_COOKIES, VALID_COOKIES),
    (super::map::TRACE, TRACE),
    (super::map::HALF_OPEN, HALF_OPEN),
    (super::map::VALID_SOURCES, VALID_SOURCES),
];
