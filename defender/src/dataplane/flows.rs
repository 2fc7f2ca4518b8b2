//! Lists connections: a pinned iterator joins the kernel's socket table with the flow table.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use defender_common::abi::Listed;

use crate::dataplane::{pins::PinRoot, socket_iter::read_all};

/// Every connection to a service in the calling thread's network namespace. Takes about a microsecond per
/// connection.
pub fn list(root: &PinRoot) -> Result<Vec<Listed>> {
    let pin = root.flows();
    let bytes = File::open(&pin).and_then(read_all).with_context(|| {
        format!("cannot list connections with {}; `defender run` makes it anew", pin.display())
    })?;
    let lines = bytes.chunks_exact(size_of::<Listed>());
    ensure!(lines.remainder().is_empty(), "the listing of connections is cut short");
    lines.map(|line| parse(line).context("the listing of connections is cut short")).collect()
}

fn parse(bytes: &[u8]) -> Option<Listed> {
    let mut fields = Fields(bytes);
    Some(Listed {
        remote: fields.take()?,
        local: fields.take()?,
        remote_port: u16::from_ne_bytes(fields.take()?),
        local_port: u16::from_ne_bytes(fields.take()?),
        service: u32::from_ne_bytes(fields.take()?),
        state: u8::from_ne_bytes(fields.take()?),
        wire_state: u8::from_ne_bytes(fields.take()?),
        admitted: u8::from_ne_bytes(fields.take()?),
        reserved: u8::from_ne_bytes(fields.take()?),
        packets: u32::from_ne_bytes(fields.take()?),
        began: u32::from_ne_bytes(fields.take()?),
    })
}

/// Bytes from which fields are taken in order.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_field_by_field() {
        let bytes: Vec<u8> = (0..size_of::<Listed>() as u8).collect();
        let line = parse(&bytes).expect("a line");
        assert_eq!(line.remote[15], 15);
        assert_eq!(line.local[0], 16);
        assert_eq!(line.local_port.to_ne_bytes(), [34, 35]);
        assert_eq!((line.state, line.wire_state, line.admitted), (40, 41, 42));
        assert_eq!(line.began.to_ne_bytes(), [48, 49, 50, 51]);
        assert_eq!(parse(&bytes[1..]), None);
    }
}
