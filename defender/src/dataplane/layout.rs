//! Where the kernel's structures have their members: read from its type information (Documentation/bpf/btf.rst).
//!
//! aya reads the same file, but keeps members to itself.

use std::fs;

use anyhow::{Context as _, Result, ensure};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type before what its kind adds.
const TYPE_LEN: usize = 12;
/// Bytes of a member of a structure.
const MEMBER_LEN: usize = 12;

/// Kinds by what they add to a type (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// The offsets in bytes of members of one of the running kernel's structures.
pub fn offsets<const N: usize>(structure: &str, members: [&str; N]) -> Result<[u16; N]> {
    let bytes = fs::read(VMLINUX).with_context(|| format!("cannot read {VMLINUX}"))?;
    find(&bytes, structure, members).with_context(|| format!("struct {structure} is not in {VMLINUX}"))
}

fn find<const N: usize>(bytes: &[u8], structure: &str, members: [&str; N]) -> Result<[u16; N]> {
    let btf = Sections::of(bytes)?;
    let mut at = 0;
    while at < btf.types.len() {
        let (name, info) = (word(btf.types, at)?, word(btf.types, at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += TYPE_LEN;
        if kind == kind::STRUCT && btf.is(name, structure) {
            let list = btf.types.get(at..at + count * MEMBER_LEN).context("a structure is cut short")?;
            let mut offsets = [0; N];
            for (offset, member) in offsets.iter_mut().zip(members) {
                *offset = member_offset(&btf, list, member)?;
            }
            return Ok(offsets);
        }
        at += added(kind, count);
    }
    anyhow::bail!("no such structure")
}

fn member_offset(btf: &Sections<'_>, list: &[u8], member: &str) -> Result<u16> {
    for at in (0..list.len()).step_by(MEMBER_LEN) {
        if btf.is(word(list, at)?, member) {
            // In bits; the upper byte is the width of a bit field, which no member here is.
            return Ok(((word(list, at + 8)? & 0x00ff_ffff) / 8) as u16);
        }
    }
    anyhow::bail!("it has no member {member}")
}

/// How many bytes a type of this kind has behind the common ones.
fn added(kind: u32, count: usize) -> usize {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
        kind::ENUM | kind::FUNC_PROTO => count * 8,
        _ => 0,
    }
}

struct Sections<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Sections<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let magic = word(bytes, 0)? as u16;
        ensure!(magic == MAGIC, "it does not begin as type information does");
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| -> Result<&'a [u8]> {
            let (offset, len) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
            bytes.get(header + offset..header + offset + len).context("a section is cut short")
        };
        Ok(Self { types: section(8)?, strings: section(16)? })
    }

    fn is(&self, name: u32, expected: &str) -> bool {
        let rest = self.strings.get(name as usize..).unwrap_or_default();
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
    fn what_is_not_there_is_an_error() {
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
