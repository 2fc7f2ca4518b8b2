//! Instructions, as they lie in memory (RFC 9669).

/// Bytes of one slot; a load of a 64-bit immediate takes two slots.
pub(crate) const SLOT: usize = 8;
/// Opcode of a load of a 64-bit immediate.
pub(crate) const LOAD_WIDE: u8 = 0x18;
/// Opcode of a call.
pub(crate) const CALL: u8 = 0x85;
/// `src` of a call of another function of the program.
pub(crate) const CALL_LOCAL: u8 = 1;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) opcode: u8,
    pub(crate) dst: usize,
    pub(crate) src: usize,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
    /// What the loader puts in.
    pub(crate) place: Option<Place>,
}

/// What an instruction names besides numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A map, by its number in the program.
    Map(usize),
    /// So many bytes into a section of data, by its number in the program.
    Data(usize, u64),
    /// An instruction.
    Code(usize),
    /// A 64-bit number.
    Number(u64),
}

impl Instruction {
    pub(crate) fn decode(slot: [u8; SLOT]) -> Self {
        let [opcode, registers, low, high, immediate @ ..] = slot;
        Self {
            opcode,
            dst: usize::from(registers & 15),
            src: usize::from(registers >> 4),
            offset: i16::from_le_bytes([low, high]),
            immediate: i32::from_le_bytes(immediate),
            place: None,
        }
    }

    /// The lowest three bits tell what kind of instruction it is.
    pub(crate) fn class(&self) -> u8 {
        self.opcode & 7
    }

    /// Whether the second operand is a register.
    pub(crate) fn is_of_register(&self) -> bool {
        self.opcode & 8 != 0
    }

    /// Of arithmetic and jumps: which.
    pub(crate) fn operation(&self) -> u8 {
        self.opcode >> 4
    }

    /// Of loads and stores: how many bytes.
    pub(crate) fn size(&self) -> usize {
        match self.opcode & 0x18 {
            0 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        }
    }

    /// Of loads and stores: how.
    pub(crate) fn mode(&self) -> u8 {
        self.opcode & 0xe0
    }

    /// The immediate as an operand: its sign is extended.
    pub(crate) fn operand(&self) -> u64 {
        i64::from(self.immediate) as u64
    }
}
