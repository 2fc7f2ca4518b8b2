//! Patches the running kernel's function ids into the object file.
//!
//! aya resolves kernel function calls only where the compiler described them in BTF. rustc does not do so
//! for foreign functions. So the programs call a sentinel ([`abi::kfunc`]), which this module replaces by
//! the real call.

use anyhow::{Context as _, Result, ensure};
use aya::Btf;
use aya_obj::btf::BtfKind;
use defender_common::abi;
use object::{Object as _, ObjectSection as _, SectionKind};

/// Bytes of one eBPF instruction.
pub(super) const INSTRUCTION: usize = 8;
/// Opcode of a call.
const CALL: u8 = 0x85;
/// Opcode of the only instruction that takes two slots: the 64-bit immediate load.
pub(super) const LOAD_IMMEDIATE_64: u8 = 0x18;
/// `src_reg` of a call that names a kernel function.
const PSEUDO_KFUNC_CALL: u8 = 2;

/// The BTF id of a function of the running kernel, if it exists.
pub fn id(btf: &Btf, name: &str) -> Option<u32> {
    btf.id_by_type_name_kind(name, BtfKind::Func).ok()
}

/// The replacement for a call of a kernel function.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// A call of the function with this BTF id. `btf` is the index of its type information in the list
    /// passed at load, or 0 for the kernel itself.
    Kernel { id: u32, btf: i16 },
    /// The kernel lacks the function. The call returns 0, as if it found nothing.
    Missing,
}

/// `r0 = 0`.
const RETURN_ZERO: [u8; INSTRUCTION] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

/// Replaces every call of [`abi::kfunc::ASSIGN_REQSK_SENTINEL`] in `object` by a call of the kernel
/// function `btf_id`. Returns the number of replacements.
pub fn patch(object: &mut [u8], btf_id: u32) -> Result<usize> {
    replace(object, abi::kfunc::ASSIGN_REQSK_SENTINEL, Call::Kernel { id: btf_id, btf: 0 })
}

/// Replaces every call of `sentinel` in `object` by `call`. Returns the number of replacements.
pub fn replace(object: &mut [u8], sentinel: i32, call: Call) -> Result<usize> {
    let mut patched = 0;
    for (offset, size) in program_sections(object)? {
        let code =
            object.get_mut(offset..offset + size).context("a section reaches beyond the object file")?;
        patched += patch_section(code, sentinel, call);
    }
    Ok(patched)
}

/// Offset and size of every section with instructions.
pub(super) fn program_sections(bytes: &[u8]) -> Result<Vec<(usize, usize)>> {
    let file = object::File::parse(bytes).context("the eBPF object inside this binary cannot be read")?;
    let mut sections = Vec::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let Some((offset, size)) = section.file_range() else { continue };
        ensure!(size % INSTRUCTION as u64 == 0, "section {:?} holds half an instruction", section.name());
        sections.push((usize::try_from(offset)?, usize::try_from(size)?));
    }
    Ok(sections)
}

fn patch_section(code: &mut [u8], sentinel: i32, call: Call) -> usize {
    let mut patched = 0;
    let mut slots = code.chunks_exact_mut(INSTRUCTION);
    while let Some(slot) = slots.next() {
        if slot[0] == LOAD_IMMEDIATE_64 {
            // The second slot is data.
            slots.next();
        } else if is_call_of(slot, sentinel) {
            write(slot, call);
            patched += 1;
        }
    }
    patched
}

fn is_call_of(slot: &[u8], sentinel: i32) -> bool {
    slot[0] == CALL && slot[4..] == sentinel.to_ne_bytes()
}

fn write(slot: &mut [u8], call: Call) {
    match call {
        Call::Kernel { id, btf } => {
            slot[1] = (slot[1] & 0x0f) | (PSEUDO_KFUNC_CALL << 4);
            slot[2..4].copy_from_slice(&btf.to_ne_bytes());
            slot[4..].copy_from_slice(&id.to_ne_bytes());
        }
        Call::Missing => slot.copy_from_slice(&RETURN_ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(immediate: i32) -> [u8; INSTRUCTION] {
        let [a, b, c, d] = immediate.to_ne_bytes();
        [CALL, 0, 0, 0, a, b, c, d]
    }

    fn count_calls(object: &[u8], src_reg: u8, immediate: i32) -> usize {
        let sections = program_sections(object).expect("readable");
        let slots = sections
            .iter()
            .flat_map(|&(offset, size)| object[offset..offset + size].chunks_exact(INSTRUCTION));
        slots
            .filter(|slot| slot[0] == CALL && slot[1] >> 4 == src_reg && slot[4..] == immediate.to_ne_bytes())
            .count()
    }

    #[test]
    fn every_sentinel_in_the_embedded_object_is_replaced_and_nothing_else() {
        let before = crate::dataplane::OBJECT;
        let sentinels = count_calls(before, 0, abi::kfunc::ASSIGN_REQSK_SENTINEL);
        assert!(sentinels > 0, "the object calls the kernel function somewhere");
        let mut after = before.to_vec();
        assert_eq!(patch(&mut after, 4242).expect("patched"), sentinels);
        assert_eq!(count_calls(&after, PSEUDO_KFUNC_CALL, 4242), sentinels);
        assert_eq!(count_calls(&after, 0, abi::kfunc::ASSIGN_REQSK_SENTINEL), 0);
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(changed <= sentinels * 5, "{changed} bytes changed");
    }

    #[test]
    fn only_calls_of_the_sentinel_change() {
        let sentinel = call(abi::kfunc::ASSIGN_REQSK_SENTINEL);
        let helper = call(5);
        let mut load = sentinel;
        load[0] = LOAD_IMMEDIATE_64;
        // The second slot of a 64-bit load is data, even if it looks like the sentinel's call.
        let mut code = [helper, load, sentinel, sentinel].concat();
        let number = abi::kfunc::ASSIGN_REQSK_SENTINEL;
        assert_eq!(patch_section(&mut code, number, Call::Kernel { id: 7, btf: 1 }), 1);
        assert_eq!(code[..24], [helper, load, sentinel].concat());
        assert_eq!(code[24..], [CALL, PSEUDO_KFUNC_CALL << 4, 1, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn a_missing_function_finds_nothing() {
        for function in abi::kfunc::CONNTRACK {
            let mut object = crate::dataplane::OBJECT.to_vec();
            let calls = count_calls(&object, 0, function.sentinel);
            assert!(calls > 0, "{}", function.name);
            assert_eq!(replace(&mut object, function.sentinel, Call::Missing).expect("replaced"), calls);
            assert_eq!(count_calls(&object, 0, function.sentinel), 0);
        }
    }
}
