//! What is in a map of the kernel's, whatever it holds: typed access as `defender-maps` gives it does not help where all maps are
//! to be copied.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};

/// Number of the command that reads a value (include/uapi/linux/bpf.h).
const MAP_LOOKUP_ELEM: libc::c_int = 1;
/// Values begin with multiples of this.
const ALIGNMENT: usize = 8;

/// A map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Whether it is an array, or one for each CPU; all others are taken to be empty.
    pub(crate) is_array: bool,
    /// Bytes from one value to the next.
    pub(crate) stride: usize,
    /// How many values.
    pub(crate) entries: u32,
    /// The values, one after the other; one CPU's of arrays for each CPU.
    pub(crate) bytes: Vec<u8>,
}

impl Contents {
    /// A map that holds nothing but zeroes.
    pub(crate) fn empty(is_array: bool, value_size: usize, entries: u32) -> Self {
        let stride = value_size.next_multiple_of(ALIGNMENT);
        let bytes = if is_array { vec![0; stride * entries as usize] } else { Vec::new() };
        Self { is_array, stride, entries, bytes }
    }

    /// Copies a map.
    pub(crate) fn of(map: &MapData) -> Result<Self> {
        let info = map.info()?;
        let copies = match info.map_type() {
            Ok(MapType::Array) => Some(1),
            Ok(MapType::PerCpuArray) => Some(nr_cpus().map_err(|(_, error)| error)?),
            _ => None,
        };
        let mut contents =
            Self::empty(copies.is_some(), usize::try_from(info.value_size())?, info.max_entries());
        let Some(copies) = copies else { return Ok(contents) };
        let mut values = vec![0; contents.stride * copies];
        for (index, value) in (0..).zip(contents.bytes.chunks_exact_mut(contents.stride)) {
            read(map, index, &mut values).with_context(|| format!("cannot read value {index}"))?;
            value.copy_from_slice(&values[..contents.stride]);
        }
        Ok(contents)
    }
}

/// What `bpf(2)` is told to read a value.
#[repr(C)]
struct LookUp {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads what an array has at an index. `values` is as long as all CPUs' values are.
fn read(map: &MapData, index: u32, values: &mut [u8]) -> Result<()> {
    let attributes = LookUp {
        map: u32::try_from(map.fd().as_fd().as_raw_fd())?,
        padding: 0,
        key: (&raw const index).expose_provenance() as u64,
        value: values.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the descriptor is an array's, whose keys are u32, and the kernel writes as many bytes as `values` has: the value
    // size, rounded up, for each possible CPU where each has its own.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_ELEM, &raw const attributes, size_of::<LookUp>()) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}
