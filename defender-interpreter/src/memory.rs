//! The interpreter's memory: regions at made-up addresses, and which of their lines are touched.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

/// Bytes of a line of the caches.
pub(crate) const LINE: u64 = 64;
/// Addresses begin here; what is below is never memory.
const FIRST: u64 = 0x1000_0000;
/// Every region begins with a page, and another page lies between two.
const PAGE: u64 = 4096;
/// The context of a program has room for 32 bits of an address.
const BEYOND: u64 = 1 << 32;

/// Whose memory it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A map's values, which are taken to begin with a line.
    Map(&'static str),
    /// Constants of the program.
    Constants,
    /// The packet.
    Packet,
    /// The metadata before the packet.
    Metadata,
    /// A socket that a helper found.
    Socket,
    /// Stack and context: always in the nearest cache, and never counted.
    Private,
}

impl Owner {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Map(name) => name,
            Self::Constants => "constants",
            Self::Packet => "packet",
            Self::Metadata => "metadata",
            Self::Socket => "socket",
            Self::Private => "stack",
        }
    }
}

/// A line of 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Whose.
    pub owner: Owner,
    /// Which of its lines.
    pub number: u64,
}

#[derive(Debug)]
struct Region {
    base: u64,
    owner: Owner,
    bytes: Vec<u8>,
}

/// All regions, by address.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
    touched: BTreeSet<(usize, u64)>,
}

impl Memory {
    /// Makes a region. Returns where it begins.
    pub(crate) fn add(&mut self, owner: Owner, bytes: Vec<u8>) -> Result<u64> {
        let last = self.regions.last();
        let base =
            last.map_or(FIRST, |last| (last.base + last.bytes.len() as u64).next_multiple_of(PAGE) + PAGE);
        ensure!(base + (bytes.len() as u64) < BEYOND, "the maps are too large to be interpreted");
        self.regions.push(Region { base, owner, bytes });
        Ok(base)
    }

    /// Reads up to eight bytes, as a program does.
    pub(crate) fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        self.touch(address, size)?;
        let mut word = [0; 8];
        word[..size].copy_from_slice(self.bytes(address, size)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Writes the lowest so many bytes, as a program does.
    pub(crate) fn store(&mut self, address: u64, size: usize, value: u64) -> Result<()> {
        self.touch(address, size)?;
        self.write(address, &value.to_le_bytes()[..size])
    }

    /// Bytes, without touching them.
    pub(crate) fn bytes(&self, address: u64, size: usize) -> Result<&[u8]> {
        let (index, at) = self.find(address, size)?;
        Ok(&self.regions[index].bytes[at..at + size])
    }

    /// Writes bytes, without touching them.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let (index, at) = self.find(address, bytes.len())?;
        self.regions[index].bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The lines that were touched since this was called the last time.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<Line> {
        let touched = std::mem::take(&mut self.touched);
        let line =
            |(region, number): (usize, u64)| Line { owner: self.regions[region].owner.clone(), number };
        touched.into_iter().map(line).collect()
    }

    fn touch(&mut self, address: u64, size: usize) -> Result<()> {
        let (index, at) = self.find(address, size)?;
        if self.regions[index].owner != Owner::Private {
            let last = (at + size).saturating_sub(1) as u64 / LINE;
            self.touched.extend((at as u64 / LINE..=last).map(|line| (index, line)));
        }
        Ok(())
    }

    /// The region with so many bytes from this address on, and how far into it they are.
    fn find(&self, address: u64, size: usize) -> Result<(usize, usize)> {
        let find = || {
            let index = self.regions.partition_point(|region| region.base <= address).checked_sub(1)?;
            let at = usize::try_from(address - self.regions[index].base).ok()?;
            (at.checked_add(size)? <= self.regions[index].bytes.len()).then_some((index, at))
        };
        find().with_context(|| format!("there is no memory of {size} bytes at {address:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_nothing_lies_beyond() -> Result<()> {
        let mut memory = Memory::default();
        let one = memory.add(Owner::Constants, vec![0; 100])?;
        let other = memory.add(Owner::Packet, vec![7; 8])?;
        memory.store(one + 92, 8, 0x1122_3344_5566_7788)?;
        assert_eq!(memory.load(one + 96, 4)?, 0x1122_3344);
        assert_eq!(memory.load(one + 92, 1)?, 0x88);
        assert_eq!(memory.load(other, 2)?, 0x0707);
        for (address, size) in [(one + 93, 8), (one - 1, 1), (other + 8, 1), (0, 1), (u64::MAX, 8)] {
            assert!(memory.load(address, size).is_err(), "{address:#x}");
            assert!(memory.store(address, size, 0).is_err(), "{address:#x}");
        }
        Ok(())
    }

    #[test]
    fn lines_are_counted_once_and_private_ones_never() -> Result<()> {
        let mut memory = Memory::default();
        let map = memory.add(Owner::Map("CONFIG"), vec![0; 200])?;
        let stack = memory.add(Owner::Private, vec![0; 200])?;
        for address in [map, map + 8, map + 124, stack] {
            memory.load(address, 8)?;
        }
        memory.bytes(map + 192, 8)?;
        let lines = [0, 1, 2].map(|number| Line { owner: Owner::Map("CONFIG"), number });
        assert_eq!(memory.take_touched(), lines.into());
        assert!(memory.take_touched().is_empty());
        Ok(())
    }
}
