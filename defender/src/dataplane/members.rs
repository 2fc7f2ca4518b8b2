//! Patches the offsets of kernel structure members into the object file.
//!
//! rustc emits no relocations for them. So the programs load from placeholder offsets ([`abi::member`]),
//! which this module replaces.

use anyhow::{Context as _, Result, ensure};
use defender_common::abi::member;

use crate::dataplane::{
    kfunc::{INSTRUCTION, LOAD_IMMEDIATE_64, program_sections},
    layout,
};

/// Opcode of a 32-bit load at an offset from a pointer.
const LOAD_32: u8 = 0x61;

/// The offset of each member in the running kernel.
pub fn places() -> Result<[(i16, u16); 4]> {
    let [queue] = layout::offsets("inet_connection_sock", ["icsk_accept_queue"])?;
    let [qlen, young] = layout::offsets("request_sock_queue", ["qlen", "young"])?;
    let [backlog, max_backlog] = layout::offsets("sock", ["sk_ack_backlog", "sk_max_ack_backlog"])?;
    Ok([
        (member::QLEN, queue + qlen),
        (member::YOUNG, queue + young),
        (member::ACK_BACKLOG, backlog),
        (member::MAX_ACK_BACKLOG, max_backlog),
    ])
}

/// Replaces every load at a placeholder of `places` in `object` by a load at the offset that it stands for.
pub fn patch(object: &mut [u8], places: &[(i16, u16)]) -> Result<()> {
    for (number, place) in places {
        let place = i16::try_from(*place).context("a kernel structure is too large")?;
        ensure!(
            replace(object, *number, place)? > 0,
            "the eBPF object inside this binary does not use member {number:#x}"
        );
    }
    Ok(())
}

/// Returns the number of replaced loads.
fn replace(object: &mut [u8], number: i16, place: i16) -> Result<usize> {
    let mut replaced = 0;
    for (offset, size) in program_sections(object)? {
        let code =
            object.get_mut(offset..offset + size).context("a section reaches beyond the object file")?;
        replaced += replace_in(code, number, place);
    }
    Ok(replaced)
}

fn replace_in(code: &mut [u8], number: i16, place: i16) -> usize {
    let mut replaced = 0;
    let mut slots = code.chunks_exact_mut(INSTRUCTION);
    while let Some(slot) = slots.next() {
        if slot[0] == LOAD_IMMEDIATE_64 {
            // The second slot is data.
            slots.next();
        } else if slot[0] == LOAD_32 && slot[2..4] == number.to_ne_bytes() {
            slot[2..4].copy_from_slice(&place.to_ne_bytes());
            replaced += 1;
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loads_at_the_placeholder_change() {
        let load = |opcode: u8, place: i16| {
            let [low, high] = place.to_ne_bytes();
            [opcode, 0x21, low, high, 0, 0, 0, 0]
        };
        let data = [LOAD_IMMEDIATE_64, 0, 0, 0, 0, 0, 0, 0];
        let mut code =
            [load(LOAD_32, 8), data, load(LOAD_32, 0x7d01), load(LOAD_32, 0x7d01), load(0x79, 0x7d01)]
                .concat();
        assert_eq!(replace_in(&mut code, 0x7d01, 500), 1);
        let expected =
            [load(LOAD_32, 8), data, load(LOAD_32, 0x7d01), load(LOAD_32, 500), load(0x79, 0x7d01)].concat();
        assert_eq!(code, expected);
    }

    #[test]
    fn the_programs_use_every_member_and_this_kernel_has_them() {
        let mut object = crate::dataplane::OBJECT.to_vec();
        patch(&mut object, &places().expect("this kernel's type information")).expect("patched");
    }
}
