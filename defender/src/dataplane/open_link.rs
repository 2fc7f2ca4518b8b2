//! A link that is open in this process: what the kernel reports about it, and operations that aya does not
//! offer.

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_link_type::{BPF_LINK_TYPE_TCX, BPF_LINK_TYPE_XDP};

use crate::dataplane::bpf::{Id, Info, OBJ_GET_INFO_BY_FD, command, descriptor};

// Commands (include/uapi/linux/bpf.h, `enum bpf_cmd`).
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const LINK_GET_FD_BY_ID: u32 = 30;
const LINK_DETACH: u32 = 34;

/// `union bpf_attr` for OBJ_PIN and OBJ_GET.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `struct bpf_link_info`, up to the last field used. What follows `prog_id` depends on the type. For XDP
/// and tcx, the device comes first.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// XDP of a device.
    Xdp,
    /// tcx of a device.
    Tcx,
    /// Something without a device. It stays attached while the link is open.
    Other,
}

/// What the kernel reports about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// What it is attached to.
    pub kind: LinkKind,
    /// The kernel's id of the link.
    pub id: u32,
    /// The kernel's id of its program.
    pub program: u32,
    /// Its device, or 0 if the device is gone or the link was detached.
    pub ifindex: u32,
}

impl About {
    /// Whether its program still runs.
    pub fn is_attached(&self) -> bool {
        self.kind == LinkKind::Other || self.ifindex != 0
    }
}

/// A link that is open in this process.
#[derive(Debug)]
pub struct OpenLink(OwnedFd);

impl OpenLink {
    /// Opens the link pinned at `pin`.
    pub fn from_pin(pin: &Path) -> Result<Self> {
        let path = c_path(pin)?;
        let mut attributes = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        let link = descriptor(OBJ_GET, &mut attributes);
        link.map(Self).with_context(|| format!("cannot open {}", pin.display()))
    }

    /// Opens the link with this id, or returns `None` if it no longer exists.
    pub fn from_id(id: u32) -> Option<Self> {
        descriptor(LINK_GET_FD_BY_ID, &mut Id { id, ..Id::default() }).ok().map(Self)
    }

    /// What the kernel reports about it.
    pub fn about(&self) -> Result<About> {
        let mut info = LinkInfo::default();
        let mut attributes = Info {
            fd: self.0.as_raw_fd() as u32,
            info_len: size_of::<LinkInfo>() as u32,
            info: &raw mut info as u64,
        };
        command(OBJ_GET_INFO_BY_FD, &mut attributes).context("cannot look at a link")?;
        let kind = match info.kind {
            kind if kind == BPF_LINK_TYPE_XDP as u32 => LinkKind::Xdp,
            kind if kind == BPF_LINK_TYPE_TCX as u32 => LinkKind::Tcx,
            _ => LinkKind::Other,
        };
        let ifindex = if kind == LinkKind::Other { 0 } else { info.ifindex };
        Ok(About { kind, id: info.id, program: info.prog_id, ifindex })
    }

    /// Detaches it from its device, even if other processes have it open.
    pub fn detach(&self) -> Result<()> {
        // `union bpf_attr` begins with the descriptor for this command.
        let mut attributes = Id { id: self.0.as_raw_fd() as u32, ..Id::default() };
        command(LINK_DETACH, &mut attributes).map(drop).context("cannot detach a link")
    }

    /// Pins it, even if it is already pinned elsewhere.
    pub fn pin(&self, pin: &Path) -> Result<()> {
        let path = c_path(pin)?;
        let mut attributes =
            Object { pathname: path.as_ptr() as u64, bpf_fd: self.0.as_raw_fd() as u32, file_flags: 0 };
        command(OBJ_PIN, &mut attributes).map(drop).with_context(|| format!("cannot pin {}", pin.display()))
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).context("a path holds a zero byte")
}
