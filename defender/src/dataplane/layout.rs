//! Offsets of kernel structure members and ids of kernel functions, from the kernel's type information
//! (Documentation/bpf/btf.rst).
//!
//! aya reads the same file, but does not expose members.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result, ensure};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// Directory of the modules' type information.
const MODULES: &str = "/sys/kernel/btf";
const MAGIC: u16 = 0xeb9f;
/// Size of a type's fixed part, in bytes.
const TYPE_LEN: usize = 12;
/// Size of a structure member, in bytes.
const MEMBER_LEN: usize = 12;

/// Kinds, grouped by what follows the fixed part (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// The byte offsets of members of one of the running kernel's structures.
pub fn offsets<const N: usize>(structure: &str, members: [&str; N]) -> Result<[u16; N]> {
    let bytes = fs::read(VMLINUX).with_context(|| format!("cannot read {VMLINUX}"))?;
    find(&bytes, structure, members).with_context(|| format!("struct {structure} is not in {VMLINUX}"))
}

/// The ids of kernel functions, or `None` if the kernel lacks one of them.
pub fn functions<const N: usize>(names: [&str; N]) -> Result<Option<[u32; N]>> {
    let bytes = fs::read(VMLINUX).with_context(|| format!("cannot read {VMLINUX}"))?;
    find_functions(BtfSections::of(&bytes)?.types(), names)
}

/// The same for functions of a module, which may not be loaded.
pub fn functions_of_module<const N: usize>(module: &str, names: [&str; N]) -> Result<Option<[u32; N]>> {
    let path = Path::new(MODULES).join(module);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    // A module's types and strings are numbered after those of the kernel.
    let base = fs::read(VMLINUX).with_context(|| format!("cannot read {VMLINUX}"))?;
    let base = BtfSections::of(&base)?;
    let mut last = 0;
    for found in base.types() {
        last = found?.id;
    }
    let mut module = BtfSections::of(&bytes)?;
    (module.first_id, module.strings_before) = (last + 1, base.strings.len());
    find_functions(module.types(), names)
}

fn find_functions<const N: usize>(types: BtfTypes<'_>, names: [&str; N]) -> Result<Option<[u32; N]>> {
    let sections = types.sections;
    let mut ids = [0; N];
    for found in types {
        let found = found?;
        if found.kind != kind::FUNC {
            continue;
        }
        for (id, name) in ids.iter_mut().zip(names) {
            if sections.is(found.name, name) {
                *id = found.id;
            }
        }
    }
    Ok((!ids.contains(&0)).then_some(ids))
}

fn find<const N: usize>(bytes: &[u8], structure: &str, members: [&str; N]) -> Result<[u16; N]> {
    let btf = BtfSections::of(bytes)?;
    for found in btf.types() {
        let found = found?;
        if found.kind == kind::STRUCT && btf.is(found.name, structure) {
            let mut offsets = [0; N];
            for (offset, member) in offsets.iter_mut().zip(members) {
                *offset = member_offset(&btf, found.list, member)?;
            }
            return Ok(offsets);
        }
    }
    anyhow::bail!("no such structure")
}

fn member_offset(btf: &BtfSections<'_>, list: &[u8], member: &str) -> Result<u16> {
    for at in (0..list.len()).step_by(MEMBER_LEN) {
        if btf.is(word(list, at)?, member) {
            // In bits. The upper byte is the width of a bit field; no member here is one.
            return Ok(((word(list, at + 8)? & 0x00ff_ffff) / 8) as u16);
        }
    }
    anyhow::bail!("it has no member {member}")
}

/// The number of bytes that follow the fixed part of a type of this kind.
fn added(kind: u32, count: usize) -> usize {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
        kind::ENUM | kind::FUNC_PROTO => count * 8,
        _ => 0,
    }
}

#[derive(Clone, Copy)]
struct BtfSections<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// The id of the first type.
    first_id: u32,
    /// Size of the strings in the type information that this one extends.
    strings_before: usize,
}

/// A type.
struct BtfType<'a> {
    id: u32,
    name: u32,
    kind: u32,
    /// The part that depends on its kind.
    list: &'a [u8],
}

/// All types, in order.
struct BtfTypes<'a> {
    sections: BtfSections<'a>,
    at: usize,
    id: u32,
}

impl<'a> Iterator for BtfTypes<'a> {
    type Item = Result<BtfType<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let types = self.sections.types;
        (self.at < types.len()).then(|| {
            let (name, info) = (word(types, self.at)?, word(types, self.at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let begin = self.at + TYPE_LEN;
            self.at = begin + added(kind, count);
            let list = types.get(begin..self.at).context("a type is cut short");
            if list.is_err() {
                self.at = types.len();
            }
            self.id += 1;
            Ok(BtfType { id: self.id - 1, name, kind, list: list? })
        })
    }
}

impl<'a> BtfSections<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let magic = word(bytes, 0)? as u16;
        ensure!(magic == MAGIC, "it does not begin as type information does");
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| -> Result<&'a [u8]> {
            let (offset, len) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
            bytes.get(header + offset..header + offset + len).context("a section is cut short")
        };
        Ok(Self { types: section(8)?, strings: section(16)?, first_id: 1, strings_before: 0 })
    }

    fn types(self) -> BtfTypes<'a> {
        BtfTypes { sections: self, at: 0, id: self.first_id }
    }

    fn is(&self, name: u32, expected: &str) -> bool {
        let Some(at) = (name as usize).checked_sub(self.strings_before) else { return false };
        let rest = self.strings.get(at..).unwrap_or_default();
        rest.strip_prefix(expected.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).context("it is cut short")?;
    Ok(u32::from_ne_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_where_the_kernel_has_them() {
        let [family, state] = offsets("sock_common", ["skc_family", "skc_state"]).expect("offsets");
        assert_eq!((family, state), (16, 18));
    }

    #[test]
    fn functions_are_found_by_name() {
        let known = aya::Btf::from_sys_fs().expect("type information");
        let names = ["tcx_link_attach", "bpf_sk_assign_tcp_reqsk"];
        let ids = names.map(|name| {
            known.id_by_type_name_kind(name, aya_obj::btf::BtfKind::Func).expect("a function of the kernel")
        });
        assert_eq!(functions(names).expect("readable"), Some(ids));
        assert_eq!(functions(["no_such_function"]).expect("readable"), None);
        assert_eq!(functions_of_module("no_such_module", names).expect("readable"), None);
    }

    #[test]
    fn missing_members_are_errors() {
        assert!(offsets("sock", ["no_such_member"]).is_err());
        assert!(offsets("no_such_structure", ["member"]).is_err());
        assert!(find(&[1, 2, 3], "sock", ["member"]).is_err());
    }

    #[test]
    fn the_accept_queue_s_length_and_limit_are_there() {
        let [length, limit] = offsets("sock", ["sk_ack_backlog", "sk_max_ack_backlog"]).expect("offsets");
        assert!(length > 100 && limit == length + 4, "{length} {limit}");
    }
}
