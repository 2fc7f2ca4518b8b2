//! Finding the kernel threads that poll an interface, by asking the kernel's `netdev` generic-netlink family.
//!
//! Their names would do on a quiet machine, but tests run side by side and call their interfaces alike.

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::{cpu, interface, netns::Namespace};

const CONTROL_FAMILY: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const FAMILY_ID: u16 = 1;

const NAPI_GET: u8 = 11;
const NAPI_IFINDEX: u16 = 1;
const NAPI_PID: u16 = 4;

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

/// Bytes of a netlink header and of the generic-netlink header behind it.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const REPLY_ROOM: usize = 32 * 1024;

/// Ids of the threads that poll the interface; none if it is not polled by threads of its own.
pub fn threads(namespace: &Namespace, name: &str) -> Result<Vec<i32>> {
    let ifindex = interface::index(namespace, name)?;
    namespace.run(|| ask(ifindex)).with_context(|| format!("cannot find the threads that poll {name}"))
}

/// Binds all threads that poll the interface to one processor.
pub fn pin(namespace: &Namespace, name: &str, cpu: usize) -> Result<()> {
    existing(namespace, name)?.into_iter().try_for_each(|thread| cpu::pin(thread, cpu))
}

fn existing(namespace: &Namespace, name: &str) -> Result<Vec<i32>> {
    let threads = threads(namespace, name)?;
    ensure!(!threads.is_empty(), "{name} is not polled by threads of its own");
    Ok(threads)
}

fn ask(ifindex: u32) -> Result<Vec<i32>> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkGeneric)?;
    let name = attribute(FAMILY_NAME, b"netdev\0");
    let replies = request(&socket, CONTROL_FAMILY, REQUEST, GET_FAMILY, &name)?;
    let family = replies.iter().find_map(|reply| find(reply, FAMILY_ID)).context("no family netdev")?;
    let family = u16::from_ne_bytes(family.get(..2).context("short family id")?.try_into()?);

    let which = attribute(NAPI_IFINDEX, &ifindex.to_ne_bytes());
    let replies = request(&socket, family, REQUEST | DUMP, NAPI_GET, &which)?;
    Ok(replies.iter().filter_map(|reply| find(reply, NAPI_PID)).filter_map(as_i32).collect())
}

/// Sends a request and returns the attributes of each message of the reply.
fn request(
    socket: &OwnedFd,
    family: u16,
    flags: u16,
    command: u8,
    attributes: &[u8],
) -> Result<Vec<Vec<u8>>> {
    let mut message = Vec::new();
    message.extend(((HEADER + GENERIC_HEADER + attributes.len()) as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port, which nobody here needs.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;

    let mut replies = Vec::new();
    while !receive(socket, &mut replies)? && flags & DUMP != 0 {}
    Ok(replies)
}

/// Reads one datagram of messages; true after the last.
fn receive(socket: &OwnedFd, replies: &mut Vec<Vec<u8>>) -> Result<bool> {
    let mut buffer = vec![0; REPLY_ROOM];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = &buffer[..length];
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes(rest[..4].try_into()?) as usize;
        let kind = u16::from_ne_bytes(rest[4..6].try_into()?);
        let message = rest.get(..length).context("cut-off netlink message")?;
        match kind {
            MESSAGE_DONE => return Ok(true),
            MESSAGE_ERROR => {
                let code = message.get(HEADER..HEADER + 4).and_then(as_i32).unwrap_or(0);
                return Err(std::io::Error::from_raw_os_error(-code).into());
            }
            _ => replies.push(message.get(HEADER + GENERIC_HEADER..).unwrap_or_default().to_vec()),
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER + value.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(length), 0);
    bytes
}

/// The value of the first attribute of that kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return attributes.get(ATTRIBUTE_HEADER..length);
        }
        if length < ATTRIBUTE_HEADER {
            return None;
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn as_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::{attribute, find};

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut bytes = attribute(7, b"odd");
        bytes.extend(attribute(4, &42_i32.to_ne_bytes()));
        assert_eq!(bytes.len(), 16);
        assert_eq!(find(&bytes, 7), Some(&b"odd"[..]));
        assert_eq!(find(&bytes, 4), Some(&42_i32.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 5), None);
    }
}
