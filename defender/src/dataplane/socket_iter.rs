//! An iteration over the kernel's socket table: the program sees every TCP socket of this network
//! namespace.

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::{Context as _, Result};
use aya::programs::Iter;

/// An iteration that has not started. It covers the network namespace of the thread that created it.
pub struct SocketIter(File);

impl SocketIter {
    /// Creates an iteration with the program `iterator`.
    pub(super) fn new(iterator: &mut Iter) -> Result<Self> {
        let id = iterator.attach().context("cannot iterate over the sockets")?;
        let link = iterator.take_link(id).context("cannot iterate over the sockets")?;
        Ok(Self(link.into_file().context("cannot iterate over the sockets")?))
    }

    /// The output of the iteration, to be read in chunks.
    pub(super) fn into_file(self) -> File {
        self.0
    }

    /// Runs the iteration. This takes about a microsecond per socket.
    pub fn run(self) -> Result<()> {
        read_all(self.0).map(drop).context("cannot walk through the sockets")
    }
}

/// Reads everything an iterator writes. After a million sockets without output the kernel returns EAGAIN
/// (kernel/bpf/bpf_iter.c, `MAX_ITER_OBJECTS`) and continues on the next read.
pub(super) fn read_all(mut source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match source.read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.map(|_| bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns EAGAIN before each byte.
    struct Hesitant(Vec<u8>, bool);

    impl Read for Hesitant {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let byte = self.0.pop();
            buffer[0] = byte.unwrap_or_default();
            Ok(byte.map_or(0, |_| 1))
        }
    }

    #[test]
    fn an_iterator_that_hesitates_is_read_to_its_end() {
        assert_eq!(read_all(Hesitant(vec![3, 2, 1], false)).expect("bytes"), [1, 2, 3]);
    }
}
