//! One netlink request to the kernel, and all of its answers.

use anyhow::{Context, Result, anyhow, bail};
use log::warn;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel sends dumps in chunks of at most 32 KiB (`net/netlink/af_netlink.c`, `netlink_dump`).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How many times a dump is started because its content changed while it was read.
const ATTEMPTS: u32 = 5;

/// How the kernel treats filters in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checking {
    /// Ignores fields that it cannot filter by.
    Lenient,
    /// Applies every filter or refuses the request (`NETLINK_GET_STRICT_CHK`, kernel 4.20).
    Strict,
}

/// Whether the content of a dump stayed the same while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DumpState {
    Consistently,
    WhileChanging,
}

/// A consistent list of everything `request` asks for. Reads again if it changed meanwhile.
pub(super) fn snapshot<Q, A>(protocol: isize, checking: Checking, request: &Q) -> Result<Vec<A>>
where
    Q: NetlinkSerializable + Clone,
    A: NetlinkDeserializable,
{
    for _ in 0..ATTEMPTS {
        let mut answers = Vec::new();
        let socket = ask(protocol, checking, NLM_F_DUMP, request.clone())?;
        if receive(&socket, |answer| answers.push(answer))? == DumpState::Consistently {
            return Ok(answers);
        }
    }
    bail!("what the kernel lists changed while it was read, {ATTEMPTS} times in a row; try again")
}

/// Passes everything `request` lists to `each`. The list may change meanwhile.
pub(super) fn dump<Q, A>(protocol: isize, request: Q, each: impl FnMut(A)) -> Result<()>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    let socket = ask(protocol, Checking::Lenient, NLM_F_DUMP, request)?;
    receive(&socket, each).map(|_| ())
}

/// The single answer to `request`, or `None` if the kernel only acknowledges it.
pub(super) fn get<Q, A>(protocol: isize, request: Q) -> Result<Option<A>>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    let mut answer = None;
    let socket = ask(protocol, Checking::Lenient, NLM_F_ACK, request)?;
    receive(&socket, |it| answer = Some(it))?;
    Ok(answer)
}

/// Opens a socket in the calling thread's network namespace and sends the request.
fn ask<Q>(protocol: isize, checking: Checking, flags: u16, request: Q) -> Result<Socket>
where
    Q: NetlinkSerializable,
{
    let socket = Socket::new(protocol).context("cannot open a netlink socket")?;
    // A connected socket receives only from the kernel, never from another process.
    socket.connect(&SocketAddr::new(0, 0)).context("cannot connect a netlink socket")?;
    if checking == Checking::Strict {
        socket.set_netlink_get_strict_chk(true).context("the kernel does not filter netlink dumps")?;
    }
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot send a netlink request")?;
    Ok(socket)
}

/// Passes answers to `each` until the kernel signals the last one.
fn receive<A: NetlinkDeserializable>(socket: &Socket, mut each: impl FnMut(A)) -> Result<DumpState> {
    let mut listed = DumpState::Consistently;
    let mut bytes = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        bytes.clear();
        socket.recv(&mut bytes, 0).context("cannot read a netlink answer")?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (message, after) = split(rest)?;
            rest = after;
            if NetlinkBuffer::new(message).flags() & NLM_F_DUMP_INTR != 0 {
                listed = DumpState::WhileChanging;
            }
            if open(message, &mut each)? == Last::Yes {
                return Ok(listed);
            }
        }
    }
}

/// The first message of a datagram, and the remaining bytes.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let length = NetlinkBuffer::new_checked(bytes)
        .map_err(|error| anyhow!("a netlink answer is cut short: {error}"))?
        .length() as usize;
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((&bytes[..length], &bytes[next..]))
}

/// Whether a message ends the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

fn open<A: NetlinkDeserializable>(message: &[u8], each: &mut impl FnMut(A)) -> Result<Last> {
    match NetlinkMessage::<A>::deserialize(message).map(|message| message.payload) {
        Ok(NetlinkPayload::InnerMessage(answer)) => each(answer),
        Ok(NetlinkPayload::Error(error)) if error.code.is_some() => {
            return Err(anyhow::Error::new(error.to_io()).context("the kernel refuses a netlink request"));
        }
        Ok(NetlinkPayload::Done(done)) if done.code != 0 => {
            let error = std::io::Error::from_raw_os_error(done.code.abs());
            return Err(anyhow::Error::new(error).context("the kernel breaks off a netlink dump"));
        }
        Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Ok(Last::Yes),
        Ok(NetlinkPayload::Overrun(_)) => bail!("the kernel lost part of a netlink answer"),
        Ok(_) => {}
        // One object of a kind that the library does not know must not hide all others.
        Err(error) => warn!("netlink: skipped one answer that could not be decoded: {error}"),
    }
    Ok(Last::No)
}
