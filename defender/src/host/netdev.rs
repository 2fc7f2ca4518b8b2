//! The XDP features of a driver, from the generic netlink family `netdev` (kernel 6.3,
//! `Documentation/netlink/specs/netdev.yaml`).

use anyhow::{Context, Result};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Nla as _,
    NlasIterator, parse_u16, parse_u64,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink;

/// Length of `struct genlmsghdr`: command, version, two reserved bytes.
const GENERIC_HEADER: usize = 4;

// include/uapi/linux/genetlink.h
const CONTROLLER: u16 = 16;
const CONTROLLER_GET_FAMILY: u8 = 3;
const CONTROLLER_FAMILY_ID: u16 = 1;
const CONTROLLER_FAMILY_NAME: u16 = 2;

// include/uapi/linux/netdev.h
const NETDEV: &str = "netdev";
const NETDEV_GET_DEVICE: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const XDP_BASIC: u64 = 1;

/// Whether the driver of interface `index` runs XDP programs itself (natively). `None` if the kernel does
/// not report it.
pub(super) fn native_xdp(index: u32) -> Result<Option<bool>> {
    let Some(family) = family(NETDEV).context("cannot look up the netlink family netdev")? else {
        return Ok(None);
    };
    let request = Message {
        family,
        command: NETDEV_GET_DEVICE,
        attributes: vec![DefaultNla::new(NETDEV_IFINDEX, index.to_ne_bytes().to_vec())],
    };
    let answer: Option<Message> =
        netlink::get(NETLINK_GENERIC, request).context("cannot ask for XDP features")?;
    let features = answer.and_then(|answer| answer.value(NETDEV_XDP_FEATURES));
    Ok(features.and_then(|value| parse_u64(&value).ok()).map(|features| features & XDP_BASIC != 0))
}

/// The number of a generic netlink family, or `None` if this kernel lacks it.
fn family(name: &str) -> Result<Option<u16>> {
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    let request = Message {
        family: CONTROLLER,
        command: CONTROLLER_GET_FAMILY,
        attributes: vec![DefaultNla::new(CONTROLLER_FAMILY_NAME, value)],
    };
    match netlink::get::<_, Message>(NETLINK_GENERIC, request) {
        Ok(answer) => {
            let id = answer.and_then(|answer| answer.value(CONTROLLER_FAMILY_ID));
            Ok(id.and_then(|value| parse_u16(&value).ok()))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound)
}

/// A generic netlink message of any family.
#[derive(Clone, Debug)]
struct Message {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl Message {
    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        let attribute = self.attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        Some(value)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENERIC_HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        const VERSION: u8 = 1;
        let (header, attributes) = buffer.split_at_mut(GENERIC_HEADER);
        header.copy_from_slice(&[self.command, VERSION, 0, 0]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (generic, attributes) = payload
            .split_at_checked(GENERIC_HEADER)
            .ok_or_else(|| DecodeError::buffer_too_small(payload.len(), GENERIC_HEADER))?;
        let attributes = NlasIterator::new(attributes)
            .map(|nla| nla.map(|nla| DefaultNla::new(nla.kind(), nla.value().to_vec())))
            .collect::<Result<_, _>>()?;
        Ok(Self { family: header.message_type, command: generic[0], attributes })
    }
}
