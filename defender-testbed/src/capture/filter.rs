//! Filters in front of packet sockets: what nobody wants to see never leaves the kernel.

use std::net::IpAddr;

/// Classic BPF, as `linux/bpf_common.h` has it: load a half word or a word at a fixed place, mask, compare, return.
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ETHER_TYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
/// Where the destination address begins.
const DESTINATION_V4: u32 = 14 + 16;
const DESTINATION_V6: u32 = 14 + 24;

/// Whole frames.
const EVERYTHING: u32 = 0x4_0000;

/// Lets frames through that go to a network; no VLAN tags.
pub(super) fn destination(network: IpAddr, bits: u8) -> Vec<libc::sock_filter> {
    let (ether_type, start, octets) = match network {
        IpAddr::V4(network) => (IPV4, DESTINATION_V4, network.octets().to_vec()),
        IpAddr::V6(network) => (IPV6, DESTINATION_V6, network.octets().to_vec()),
    };
    let mut tests = vec![(LOAD_HALF, ETHER_TYPE, u32::MAX, ether_type)];
    for (index, word) in (0..).zip(octets.as_chunks::<4>().0) {
        let left = u32::from(bits).saturating_sub(index * 32).min(32);
        let mask = u32::MAX.checked_shl(32 - left).unwrap_or(0);
        if mask != 0 {
            tests.push((LOAD_WORD, start + index * 4, mask, u32::from_be_bytes(*word) & mask));
        }
    }
    let mut program = Vec::new();
    for (number, (load, place, mask, value)) in tests.iter().enumerate() {
        let left = tests.len() - 1 - number;
        program.extend([
            instruction(*load, *place, 0),
            instruction(AND, *mask, 0),
            // To the last instruction: past the tests that are left and one return.
            instruction(JUMP_EQUAL, *value, (left * 3 + 1) as u8),
        ]);
    }
    program.extend([instruction(RETURN, EVERYTHING, 0), instruction(RETURN, 0, 0)]);
    program
}

/// `otherwise` is how many instructions a comparison that fails skips.
fn instruction(code: u16, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: otherwise, k }
}
