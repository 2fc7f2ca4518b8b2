//! Who sends SYNs to a service: the value of `SOURCES`.

use super::SERVICE_SLOTS;

/// Registers of one bank of [`Sources`]: a power of two.
pub const SOURCE_REGISTERS: usize = 512;
/// Samples of [`Sources`]: a power of two.
pub const SOURCE_SAMPLES: usize = 64;

/// Who sends SYNs to a service, see [`crate::sources`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Two banks, of even and of odd windows. A register holds bits of its window's number above six bits of rank; a
    /// rank of 0: empty.
    pub registers: [[u16; SOURCE_REGISTERS]; 2],
    /// Some of the sources.
    pub samples: [SourceSample; SOURCE_SAMPLES],
}

/// The value of `SOURCES`, by the services' ids.
pub type SourcesOfServices = [Sources; SERVICE_SLOTS as usize];

impl Default for Sources {
    fn default() -> Self {
        Self { registers: [[0; SOURCE_REGISTERS]; 2], samples: [SourceSample::default(); SOURCE_SAMPLES] }
    }
}

/// One source in [`Sources`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSample {
    /// Its address, mapped if IPv4.
    pub address: [u8; 16],
    /// When it sent a SYN, in milliseconds of the datapath's clock; 0: never.
    pub at: u32,
    /// Zero.
    pub reserved: u32,
}
