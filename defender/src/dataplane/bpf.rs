//! bpf(2) operations that aya does not offer: programs that call functions of kernel modules, and, for
//! [`open_link`], detaching a link or pinning it again.
//!
//! [`open_link`]: crate::dataplane::open_link

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use aya_obj::generated::{bpf_insn, bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS};

// Commands (include/uapi/linux/bpf.h, `enum bpf_cmd`).
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const PROG_LOAD: u32 = 5;
pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
const BTF_GET_FD_BY_ID: u32 = 19;
const BTF_GET_NEXT_ID: u32 = 23;

/// Maximum size of the verifier's log.
const LOG_BYTES: usize = 1 << 20;

/// `union bpf_attr` for PROG_LOAD, up to the last field used.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    /// Fields for type information, which this program lacks.
    btf: [u32; 12],
    fd_array: u64,
}

/// `union bpf_attr` for commands on map entries.
#[repr(C)]
struct MapEntry {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for commands on identifiers.
#[repr(C)]
#[derive(Default)]
pub(super) struct Id {
    pub(super) id: u32,
    pub(super) next_id: u32,
    pub(super) open_flags: u32,
}

/// `union bpf_attr` for OBJ_GET_INFO_BY_FD.
#[repr(C)]
pub(super) struct Info {
    pub(super) fd: u32,
    pub(super) info_len: u32,
    pub(super) info: u64,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// A loaded program.
pub struct Program(OwnedFd);

impl Program {
    /// Loads a tc program. Its calls refer to type information by index into `btfs`, a list of descriptors.
    pub fn load(name: &str, code: &[bpf_insn], license: &CStr, btfs: &[RawFd]) -> Result<Self> {
        let mut attributes = ProgramLoad {
            prog_type: BPF_PROG_TYPE_SCHED_CLS as u32,
            insn_cnt: code.len() as u32,
            insns: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_name: short(name),
            fd_array: btfs.as_ptr() as u64,
            ..ProgramLoad::default()
        };
        if let Ok(fd) = descriptor(PROG_LOAD, &mut attributes) {
            return Ok(Self(fd));
        }
        // Load again to get the verifier's log.
        let mut log = vec![0; LOG_BYTES];
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log_buf = log.as_mut_ptr() as u64;
        descriptor(PROG_LOAD, &mut attributes).map(Self).with_context(|| {
            let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            format!("the verifier refuses it: {}", text.trim())
        })
    }
}

/// Puts a program into the first slot of a program array.
pub fn put(array: &MapData, program: &Program) -> Result<()> {
    let value = program.0.as_raw_fd() as u32;
    command(MAP_UPDATE_ELEM, &mut entry(array, &raw const value as u64))
        .map(drop)
        .context("cannot put a program into its place")
}

/// Clears the first slot of a program array.
pub fn clear(array: &MapData) -> Result<()> {
    match command(MAP_DELETE_ELEM, &mut entry(array, 0)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("cannot take a program out of its place")
        }
        _ => Ok(()),
    }
}

/// The first slot of an array.
static FIRST: u32 = 0;

fn entry(array: &MapData, value: u64) -> MapEntry {
    let map_fd = array.fd().as_fd().as_raw_fd() as u32;
    MapEntry { map_fd, reserved: 0, key: &raw const FIRST as u64, value, flags: 0 }
}

/// The type information of a kernel module, or `None` if it has none or is not loaded.
pub fn btf_of_module(module: &str) -> Result<Option<OwnedFd>> {
    let mut id = 0;
    loop {
        let mut next = Id { id, ..Id::default() };
        match command(BTF_GET_NEXT_ID, &mut next) {
            Ok(_) => id = next.next_id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot list the kernel's type information"),
        }
        // It may have been unloaded meanwhile.
        let Ok(btf) = descriptor(BTF_GET_FD_BY_ID, &mut Id { id, ..Id::default() }) else { continue };
        if is_of_module(&btf, module)? {
            return Ok(Some(btf));
        }
    }
}

fn is_of_module(btf: &OwnedFd, module: &str) -> Result<bool> {
    let mut name = [0; 64];
    let mut info =
        BtfInfo { name: name.as_mut_ptr() as u64, name_len: name.len() as u32, ..BtfInfo::default() };
    let mut attributes = Info {
        fd: btf.as_raw_fd() as u32,
        info_len: size_of::<BtfInfo>() as u32,
        info: &raw mut info as u64,
    };
    command(OBJ_GET_INFO_BY_FD, &mut attributes).context("cannot look at the kernel's type information")?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(info.kernel_btf != 0 && name.to_bytes() == module.as_bytes())
}

/// A name truncated to the kernel's limit.
fn short(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    short
}

pub(super) fn descriptor<T>(number: u32, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = command(number, attributes)?;
    // SAFETY: the command has returned a new descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `T` must be the type that the command takes, and its pointers must be valid.
pub(super) fn command<T>(number: u32, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes only within the attributes, whose size is passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, number, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
