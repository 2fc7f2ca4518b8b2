//! Executes instructions, and counts them (RFC 9669).

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    alu::{self, Width},
    elf::Program,
    instruction::{CALL, Instruction, LOAD_WIDE, Place},
    world::World,
};

/// Bytes of stack that each function has.
const FRAME: u64 = 512;
/// Functions that call one another, at most.
pub(crate) const FRAMES: usize = 8;
/// Bytes of all stacks.
pub(crate) const STACK: usize = FRAMES * FRAME as usize;
/// More instructions than any packet is worth.
const MOST_INSTRUCTIONS: u64 = 1_000_000;
/// The registers that a function gives back as they were.
const KEPT: std::ops::Range<usize> = 6..10;
/// The register with the end of the stack's frame.
const FRAME_POINTER: usize = 10;

const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const JUMP_FAR: u8 = 0x06;
/// Modes of loads and stores.
const PLAIN: u8 = 0x60;
const SIGNED: u8 = 0x80;
const ATOMIC: u8 = 0xc0;

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Instructions of eBPF.
    pub instructions: u64,
    /// Look-ups in arrays.
    pub look_ups: u64,
    /// Calls of all helpers, those included.
    pub helpers: u64,
}

struct Caller {
    returns_to: usize,
    kept: [u64; 4],
}

/// A processor in the midst of a program.
pub(crate) struct Machine<'a> {
    program: &'a Program,
    world: &'a mut World,
    registers: [u64; 11],
    callers: Vec<Caller>,
    next: usize,
    count: Count,
}

impl<'a> Machine<'a> {
    /// Runs a function with one argument to its end. Returns what it returns, and the count.
    pub(crate) fn run(
        program: &'a Program,
        world: &'a mut World,
        function: &str,
        argument: u64,
    ) -> Result<(u64, Count)> {
        let next = program.function(function)?;
        let mut registers = [0; 11];
        registers[1] = argument;
        registers[FRAME_POINTER] = world.stack() + STACK as u64;
        let mut machine =
            Self { program, world, registers, callers: Vec::new(), next, count: Count::default() };
        loop {
            let at = machine.next;
            let ends = machine.step().with_context(|| format!("at instruction {at} of the eBPF object"))?;
            if ends {
                return Ok((machine.registers[0], machine.count));
            }
        }
    }

    /// Executes an instruction. Returns whether the program has ended.
    fn step(&mut self) -> Result<bool> {
        let instruction = *self.program.code.get(self.next).context("there is no code")?;
        self.next += 1;
        self.count.instructions += 1;
        ensure!(self.count.instructions <= MOST_INSTRUCTIONS, "the program does not end");
        match instruction.opcode {
            EXIT => return Ok(self.exit()),
            CALL => self.call(instruction)?,
            LOAD_WIDE => self.load_wide(instruction)?,
            JUMP => self.jump(instruction.offset.into())?,
            JUMP_FAR => self.jump(instruction.immediate)?,
            _ => match instruction.class() {
                1 => self.load(instruction)?,
                2 | 3 => self.store(instruction)?,
                4 => self.compute(instruction, Width::Half)?,
                7 => self.compute(instruction, Width::Full)?,
                5 => self.jump_if(instruction, Width::Full)?,
                6 => self.jump_if(instruction, Width::Half)?,
                _ => return unsupported(instruction),
            },
        }
        Ok(false)
    }

    fn compute(&mut self, instruction: Instruction, width: Width) -> Result<()> {
        const MOVE: u8 = 0xb;
        const BYTE_ORDER: u8 = 0xd;
        let (a, b) = (self.registers[instruction.dst], self.second(instruction));
        let value = match (instruction.operation(), instruction.offset) {
            (BYTE_ORDER, 0) => {
                // To big-endian order, or in the 64-bit class without condition; this machine's is little-endian.
                let turned = instruction.is_of_register() || width == Width::Full;
                alu::reorder(a, instruction.immediate, turned)
            }
            (MOVE, bits @ 1..) if instruction.is_of_register() => {
                alu::extend(b, bits as u32).and_then(|extended| alu::compute(MOVE, width, a, extended))
            }
            (operation, 0) => alu::compute(operation, width, a, b),
            _ => None,
        };
        let Some(value) = value else { return unsupported(instruction) };
        self.registers[instruction.dst] = value;
        Ok(())
    }

    fn jump_if(&mut self, instruction: Instruction, width: Width) -> Result<()> {
        let (a, b) = (self.registers[instruction.dst], self.second(instruction));
        match alu::compare(instruction.operation(), width, a, b) {
            Some(true) => self.jump(instruction.offset.into()),
            Some(false) => Ok(()),
            None => unsupported(instruction),
        }
    }

    fn jump(&mut self, by: i32) -> Result<()> {
        self.next = self.next.checked_add_signed(by.try_into()?).context("a jump leads out of the code")?;
        Ok(())
    }

    fn load(&mut self, instruction: Instruction) -> Result<()> {
        let size = instruction.size();
        let address = address(self.registers[instruction.src], instruction);
        let value = self.world.memory().load(address, size)?;
        let value = match instruction.mode() {
            PLAIN => Some(value),
            SIGNED => alu::extend(value, size as u32 * 8),
            _ => None,
        };
        let Some(value) = value else { return unsupported(instruction) };
        self.registers[instruction.dst] = value;
        Ok(())
    }

    fn store(&mut self, instruction: Instruction) -> Result<()> {
        let address = address(self.registers[instruction.dst], instruction);
        let is_of_register = instruction.class() == 3;
        match instruction.mode() {
            PLAIN if is_of_register => {
                self.world.memory().store(address, instruction.size(), self.registers[instruction.src])
            }
            PLAIN => self.world.memory().store(address, instruction.size(), instruction.operand()),
            ATOMIC if is_of_register => self.atomic(instruction, address),
            _ => unsupported(instruction),
        }
    }

    fn atomic(&mut self, instruction: Instruction, address: u64) -> Result<()> {
        let width = match instruction.size() {
            4 => Width::Half,
            8 => Width::Full,
            _ => return unsupported(instruction),
        };
        let old = self.world.memory().load(address, instruction.size())?;
        let value = self.registers[instruction.src];
        let Some(done) = alu::atomic(instruction.immediate, width, old, value, self.registers[0]) else {
            return unsupported(instruction);
        };
        self.world.memory().store(address, instruction.size(), done.stored)?;
        if done.fetches {
            self.registers[instruction.src] = old;
        }
        if done.compares {
            self.registers[0] = old;
        }
        Ok(())
    }

    fn load_wide(&mut self, instruction: Instruction) -> Result<()> {
        let place = instruction.place.context("a load of 64 bits without a second half")?;
        self.registers[instruction.dst] = self.world.address(place)?;
        // The second half is no instruction.
        self.next += 1;
        Ok(())
    }

    fn call(&mut self, instruction: Instruction) -> Result<()> {
        match (instruction.place, instruction.src) {
            (Some(Place::Code(target)), _) => self.enter(target),
            (None, 0) => {
                let arguments = std::array::from_fn(|number| self.registers[number + 1]);
                let answer = self.world.help(instruction.immediate, arguments)?;
                self.registers[0] = answer.value;
                self.count.helpers += 1;
                self.count.look_ups += u64::from(answer.is_look_up);
                Ok(())
            }
            _ => unsupported(instruction),
        }
    }

    fn enter(&mut self, target: usize) -> Result<()> {
        ensure!(self.callers.len() + 1 < FRAMES, "functions call one another more than {FRAMES} deep");
        let kept = std::array::from_fn(|number| self.registers[KEPT.start + number]);
        self.callers.push(Caller { returns_to: self.next, kept });
        self.registers[FRAME_POINTER] -= FRAME;
        self.next = target;
        Ok(())
    }

    fn exit(&mut self) -> bool {
        let Some(caller) = self.callers.pop() else { return true };
        self.registers[KEPT].copy_from_slice(&caller.kept);
        self.registers[FRAME_POINTER] += FRAME;
        self.next = caller.returns_to;
        false
    }

    /// The second operand.
    fn second(&self, instruction: Instruction) -> u64 {
        if instruction.is_of_register() { self.registers[instruction.src] } else { instruction.operand() }
    }
}

fn address(base: u64, instruction: Instruction) -> u64 {
    base.wrapping_add_signed(instruction.offset.into())
}

fn unsupported<T>(instruction: Instruction) -> Result<T> {
    let Instruction { opcode, src, offset, immediate, .. } = instruction;
    bail!(
        "this interpreter does not know the instruction {opcode:#04x} (source {src}, offset {offset}, immediate {immediate:#x})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const ADD: u8 = 0x07;
    const ADD_REGISTER: u8 = 0x0f;
    const STORE: u8 = 0x7b;
    const LOAD: u8 = 0x79;
    const END: [u8; 8] = [EXIT, 0, 0, 0, 0, 0, 0, 0];

    fn slot(opcode: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        [opcode, src << 4 | dst, low, high, a, b, c, d]
    }

    /// What a function returns that is given a 7.
    fn run(slots: &[[u8; 8]]) -> Result<(u64, Count)> {
        let program = Program::of_code("main", slots)?;
        Machine::run(&program, &mut World::empty()?, "main", 7)
    }

    fn value(slots: &[[u8; 8]]) -> u64 {
        run(slots).expect("it ends").0
    }

    fn complaint(slots: &[[u8; 8]]) -> String {
        format!("{:#}", run(slots).expect_err("it fails"))
    }

    #[test]
    fn loops_are_counted_round_by_round() {
        // r0 = 0; do { r0 += r1; r1 -= 1 } while r1 != 0
        let slots = [
            slot(MOVE, 0, 0, 0, 0),
            slot(ADD_REGISTER, 0, 1, 0, 0),
            slot(ADD, 1, 0, 0, -1),
            slot(0x55, 1, 0, -3, 0),
            END,
        ];
        let (value, count) = run(&slots).expect("it ends");
        assert_eq!((value, count), (28, Count { instructions: 1 + 7 * 3 + 1, look_ups: 0, helpers: 0 }));
    }

    #[test]
    fn functions_have_stacks_and_keep_registers() {
        // r6 = r1; [stack] = r6; f(); r0 = r6 + [stack]; f: r6 = 1; [stack] = 1
        let slots = [
            slot(MOVE_REGISTER, 6, 1, 0, 0),
            slot(STORE, 10, 6, -8, 0),
            slot(CALL, 0, 1, 0, 4),
            slot(LOAD, 0, 10, -8, 0),
            slot(ADD_REGISTER, 0, 6, 0, 0),
            slot(MOVE, 6, 0, 0, 0),
            END,
            slot(MOVE, 6, 0, 0, 1),
            slot(STORE, 10, 6, -8, 0),
            END,
        ];
        assert_eq!(value(&slots), 14);
    }

    #[test]
    fn numbers_of_64_bits_take_two_slots_and_one_instruction() {
        let slots = [slot(LOAD_WIDE, 0, 0, 0, 2), slot(0, 0, 0, 0, 1), END];
        let (value, count) = run(&slots).expect("it ends");
        assert_eq!((value, count.instructions), (0x1_0000_0002, 2));
    }

    #[test]
    fn operands_are_extended_and_results_cut() {
        assert_eq!(value(&[slot(MOVE, 0, 0, 0, -1), END]), u64::MAX);
        assert_eq!(value(&[slot(0xb4, 0, 0, 0, -1), END]), 0xffff_ffff);
        // Movement with extension of the sign, and a turn of bytes.
        assert_eq!(value(&[slot(MOVE, 2, 0, 0, 0x80), slot(MOVE_REGISTER, 0, 2, 8, 0), END]), !0x7f);
        assert_eq!(value(&[slot(MOVE, 0, 0, 0, 0x1234), slot(0xdc, 0, 0, 0, 16), END]), 0x3412);
        assert_eq!(value(&[slot(MOVE, 0, 0, 0, 0x1234), slot(0xd4, 0, 0, 0, 16), END]), 0x1234);
        assert_eq!(value(&[slot(MOVE, 0, 0, 0, 0x1234), slot(0xd7, 0, 0, 0, 32), END]), 0x3412_0000);
    }

    #[test]
    fn jumps_go_both_ways_and_far() {
        assert_eq!(value(&[slot(JUMP, 0, 0, 1, 0), END, slot(MOVE, 0, 0, 0, 3), slot(JUMP, 0, 0, -3, 0)]), 3);
        assert_eq!(value(&[slot(JUMP_FAR, 0, 0, 0, 1), END, slot(MOVE, 0, 0, 0, 3), END]), 3);
        // A comparison of 32 bits takes no notice of the others.
        let wide = slot(LOAD_WIDE, 2, 0, 0, 7);
        let compare = |opcode| {
            value(&[wide, slot(0, 0, 0, 0, 1), slot(opcode, 2, 1, 1, 0), slot(MOVE, 0, 0, 0, 9), END])
        };
        assert_eq!((compare(0x1e), compare(0x1d)), (0, 9));
    }

    #[test]
    fn atomics_work_in_memory() {
        // [stack] = 7; r2 = 5; r2 = [stack] fetched, with r2 added; r0 = [stack] + r2
        let slots = [
            slot(STORE, 10, 1, -8, 0),
            slot(MOVE, 2, 0, 0, 5),
            slot(0xdb, 10, 2, -8, 1),
            slot(LOAD, 0, 10, -8, 0),
            slot(ADD_REGISTER, 0, 2, 0, 0),
            END,
        ];
        assert_eq!(value(&slots), 12 + 7);
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert!(complaint(&[slot(0x20, 0, 0, 0, 0), END]).contains("the instruction 0x20"));
        assert!(complaint(&[slot(CALL, 0, 0, 0, 181), END]).contains("the helper 181"));
        assert!(complaint(&[slot(CALL, 0, 2, 0, 5), END]).contains("the instruction 0x85 (source 2"));
        assert!(complaint(&[slot(LOAD, 0, 1, 0, 0), END]).contains("no memory of 8 bytes at 0x7"));
        assert!(complaint(&[slot(JUMP, 0, 0, -1, 0)]).contains("does not end"));
        assert!(complaint(&[slot(CALL, 0, 1, 0, -1)]).contains("8 deep"));
        assert!(complaint(&[slot(MOVE, 0, 0, 0, 0)]).contains("there is no code"));
        let program = Program::of_code("main", &[END]).expect("code");
        let unnamed = Machine::run(&program, &mut World::empty().expect("empty"), "other", 0);
        assert!(unnamed.expect_err("none").to_string().contains("no function other"));
    }
}
