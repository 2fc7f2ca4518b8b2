//! Socket options that applications set on listening sockets, read by an iterator.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
};

use anyhow::{Context as _, Result};
use aya::Pod;
use defender_common::abi::{ListenerOffsets, ListenerOptions};

use crate::dataplane::{flows::Fields, layout, socket_iter::SocketIter};

const LINE: usize = size_of::<ListenerOptions>();
/// Number of records to request at a time. The iterator advances only as far as needed to fill them.
const LINES: usize = 64;

/// The offsets in the layout that the loader patches into the programs.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Offsets(ListenerOffsets);

// SAFETY: `repr(C)`, made of integers without padding.
unsafe impl Pod for Offsets {}

/// The offsets of the fields to read in this kernel. If the kernel does not report them, nothing is read,
/// and listeners count as having no options set.
pub(super) fn offsets() -> Offsets {
    Offsets(find().unwrap_or_else(|error| {
        log::warn!("SYN-ACKs do not follow socket options (IP_TTL, IP_TOS, TCP_MAXSEG, ...): {error:#}");
        ListenerOffsets::default()
    }))
}

fn find() -> Result<ListenerOffsets> {
    let [cookie] = layout::offsets("sock_common", ["skc_cookie"])?;
    let [receive_buffer, user_locks] = layout::offsets("sock", ["sk_rcvbuf", "sk_userlocks"])?;
    let [ttl, tos, ipv6] = layout::offsets("inet_sock", ["uc_ttl", "tos", "pinet6"])?;
    let [hop_limit, traffic_class] = layout::offsets("ipv6_pinfo", ["hop_limit", "tclass"])?;
    let [received, window_clamp] = layout::offsets("tcp_sock", ["rx_opt", "window_clamp"])?;
    let [mss] = layout::offsets("tcp_options_received", ["user_mss"])?;
    let mss = received + mss;
    Ok(ListenerOffsets {
        cookie,
        receive_buffer,
        user_locks,
        ttl,
        tos,
        ipv6,
        hop_limit,
        traffic_class,
        mss,
        window_clamp,
        known: 1,
    })
}

/// Reads an iteration through the listeners, which come first, and stops after them.
pub(super) fn read(iter: SocketIter) -> Result<BTreeMap<u64, ListenerOptions>> {
    let mut file = iter.into_file();
    let mut found = BTreeMap::new();
    while let Some(lines) = read_lines(&mut file).context("cannot walk through the listeners")? {
        for options in lines.chunks_exact(LINE).filter_map(parse) {
            if options.listens == 0 {
                return Ok(found);
            }
            found.insert(options.cookie, options);
        }
    }
    Ok(found)
}

/// The next records, as many as the kernel returns at once. `None` at the end.
fn read_lines(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut lines = vec![0; LINE * LINES];
    loop {
        match file.read(&mut lines) {
            Ok(0) => return Ok(None),
            Ok(length) => {
                lines.truncate(length);
                return Ok(Some(lines));
            }
            // See `socket_iter::read_all`.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<ListenerOptions> {
    let mut fields = Fields(bytes);
    Some(ListenerOptions {
        cookie: u64::from_ne_bytes(fields.take()?),
        receive_buffer: u32::from_ne_bytes(fields.take()?),
        window_clamp: u32::from_ne_bytes(fields.take()?),
        mss: u16::from_ne_bytes(fields.take()?),
        ttl: fields.take()?,
        tos: fields.take()?,
        user_locks: u8::from_ne_bytes(fields.take()?),
        listens: u8::from_ne_bytes(fields.take()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_everything_is() {
        assert_eq!(find().expect("offsets").known, 1);
    }

    #[test]
    fn lines_are_read_field_by_field() {
        let bytes: Vec<u8> = (0..LINE as u8).collect();
        let options = parse(&bytes).expect("a line");
        assert_eq!(options.cookie.to_ne_bytes(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(options.mss.to_ne_bytes(), [16, 17]);
        assert_eq!((options.ttl, options.tos), ([18, 19], [20, 21]));
        assert_eq!((options.user_locks, options.listens), (22, 23));
        assert_eq!(parse(&bytes[1..]), None);
    }
}
