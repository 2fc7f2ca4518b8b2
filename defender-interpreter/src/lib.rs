//! What a packet executes and touches: the defender's program, interpreted.
//!
//! The machine may have no counters of instructions and of misses of caches, and what they count depends on it. An
//! interpreter counts the same anywhere. It runs the eBPF object that the defender's binary holds, with what is in the maps of
//! a defender that is attached, in memory of its own: the kernel's maps stay as they are.
//!
//! Not counted: what helpers of the kernel execute and touch, and what the JIT makes of an instruction, which mostly is one.
//! There is no cache either: lines of 64 bytes are counted that a packet touches, and whoever compares packets sees which
//! are always the same.

mod alu;
mod contents;
mod elf;
mod helpers;
mod instruction;
mod machine;
mod memory;
mod world;

pub use elf::Program;
pub use machine::Count;
pub use memory::{Line, Owner};
pub use world::{Outcome, World};

/// Instructions of x86 that the JIT makes of a look-up in an array, in place of the call: it loads, compares and scales the
/// index (`array_map_gen_lookup`, kernel/bpf/arraymap.c).
pub const LOOK_UP_INSTRUCTIONS: u64 = 12;
