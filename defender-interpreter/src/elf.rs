//! The eBPF object in the defender's binary: functions, constants and maps.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use defender_common::abi;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SectionKind,
    SymbolKind, elf::EM_BPF, read::File,
};

use crate::instruction::{CALL, CALL_LOCAL, Instruction, LOAD_WIDE, Place, SLOT};

/// How an ELF file of 64 bits in little-endian order begins.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
/// Where its header has the machine that the code is for.
const MACHINE: usize = 18;
/// Bytes of that header.
const HEADER: usize = 64;
/// The section with the definitions of maps (`struct bpf_map_def` of libbpf before version 1).
const MAPS: &str = "maps";
/// `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_PERCPU_ARRAY`.
const ARRAYS: [u32; 2] = [2, 6];

/// The program, ready to be interpreted.
#[derive(Debug)]
pub struct Program {
    /// The instructions of all functions; a load of 64 bits has a second slot, as in the file.
    pub(crate) code: Vec<Instruction>,
    /// Its maps.
    pub(crate) maps: Vec<Definition>,
    /// Sections of constants.
    pub(crate) data: Vec<Vec<u8>>,
    /// Where functions begin.
    functions: BTreeMap<String, usize>,
}

/// A map, as the object file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) is_array: bool,
    pub(crate) value_size: u32,
    pub(crate) entries: u32,
}

impl Program {
    /// Reads the object that a defender's binary holds.
    pub fn in_binary(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let object = find_object(&bytes).with_context(|| format!("{} has no eBPF object", path.display()))?;
        Self::parse(object).with_context(|| format!("cannot read the eBPF object in {}", path.display()))
    }

    /// Where a function begins.
    pub(crate) fn function(&self, name: &str) -> Result<usize> {
        self.functions.get(name).copied().with_context(|| format!("the eBPF object has no function {name}"))
    }

    /// A program of one function, without maps.
    #[cfg(test)]
    pub(crate) fn of_code(name: &str, slots: &[[u8; SLOT]]) -> Result<Self> {
        let code = slots.iter().map(|slot| Instruction::decode(*slot)).collect();
        let functions = [(name.to_owned(), 0)].into();
        let mut program = Self { code, maps: Vec::new(), data: Vec::new(), functions };
        program.place_numbers();
        program.place_calls()?;
        Ok(program)
    }

    fn parse(object: &[u8]) -> Result<Self> {
        let file = File::parse(object)?;
        let sections = Sections::of(&file)?;
        let maps = definitions(&file)?;
        let mut code = Vec::new();
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let slots = section.data()?.as_chunks::<SLOT>().0;
            code.extend(slots.iter().map(|slot| Instruction::decode(*slot)));
        }
        let functions = functions(&file, &sections)?;
        let mut program = Self { code, maps, data: sections.data.clone(), functions };
        program.place_numbers();
        program.place_calls()?;
        program.relocate(&file, &sections)?;
        Ok(program)
    }

    /// Joins the two halves of 64-bit numbers.
    fn place_numbers(&mut self) {
        let mut at = 0;
        while at + 1 < self.code.len() {
            if self.code[at].opcode != LOAD_WIDE {
                at += 1;
                continue;
            }
            let halves = [self.code[at], self.code[at + 1]].map(|half| u64::from(half.immediate as u32));
            let number = halves[0] | halves[1] << 32;
            self.code[at].place = Some(Place::Number(number));
            at += 2;
        }
    }

    /// Calls within a section name no symbol.
    fn place_calls(&mut self) -> Result<()> {
        for at in 0..self.code.len() {
            let instruction = &mut self.code[at];
            if is_local_call(instruction) {
                let target = (at as i64 + 1).checked_add(instruction.immediate.into());
                let target = target.and_then(|target| usize::try_from(target).ok());
                instruction.place = Some(Place::Code(target.context("a call leads out of the code")?));
            }
        }
        Ok(())
    }

    fn relocate(&mut self, file: &File<'_>, sections: &Sections) -> Result<()> {
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    bail!("a relocation names no symbol");
                };
                let symbol = file.symbol_by_index(index)?;
                let at = sections.instruction(section.index(), offset)?;
                let place = self.place(file, sections, &symbol, self.code[at])?;
                self.code[at].place = Some(place);
            }
        }
        Ok(())
    }

    /// What an instruction names that a symbol belongs to.
    fn place<'a>(
        &self,
        file: &File<'a>,
        sections: &Sections,
        symbol: &impl object::ObjectSymbol<'a>,
        instruction: Instruction,
    ) -> Result<Place> {
        let section = symbol.section_index().context("a relocation names what is not in the file")?;
        if is_local_call(&instruction) {
            // A section's symbol stands for its beginning; which function is meant is in the immediate.
            let inside = match symbol.kind() {
                SymbolKind::Section => (i64::from(instruction.immediate) + 1) * SLOT as i64,
                _ => 0,
            };
            let offset = symbol.address().wrapping_add_signed(inside);
            return Ok(Place::Code(sections.instruction(section, offset)?));
        }
        ensure!(instruction.opcode == LOAD_WIDE, "a relocation of opcode {:#x}", instruction.opcode);
        if file.section_by_index(section)?.name()? == MAPS {
            let name = symbol.name()?;
            let map = self.maps.iter().position(|map| map.name == name);
            return Ok(Place::Map(map.with_context(|| format!("the map {name} is not defined"))?));
        }
        let data = sections.data_of.get(&section).context("a relocation names a section without data")?;
        Ok(Place::Data(*data, symbol.address() + u64::from(instruction.immediate as u32)))
    }
}

/// Where sections are: code among all instructions, constants among all data.
struct Sections {
    begins: HashMap<SectionIndex, usize>,
    data_of: HashMap<SectionIndex, usize>,
    data: Vec<Vec<u8>>,
}

impl Sections {
    fn of(file: &File<'_>) -> Result<Self> {
        let mut sections = Self { begins: HashMap::new(), data_of: HashMap::new(), data: Vec::new() };
        let mut next = 0;
        for section in file.sections() {
            match section.kind() {
                SectionKind::Text => {
                    ensure!(
                        section.size() % SLOT as u64 == 0,
                        "{:?} holds half an instruction",
                        section.name()
                    );
                    sections.begins.insert(section.index(), next);
                    next += usize::try_from(section.size())? / SLOT;
                }
                SectionKind::Data | SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => {
                    sections.data_of.insert(section.index(), sections.data.len());
                    sections.data.push(section.data()?.to_vec());
                }
                _ => {}
            }
        }
        Ok(sections)
    }

    fn instruction(&self, section: SectionIndex, offset: u64) -> Result<usize> {
        let begin = self.begins.get(&section).context("a function is in a section without code")?;
        Ok(begin + usize::try_from(offset)? / SLOT)
    }
}

fn is_local_call(instruction: &Instruction) -> bool {
    instruction.opcode == CALL && instruction.src == usize::from(CALL_LOCAL)
}

fn functions(file: &File<'_>, sections: &Sections) -> Result<BTreeMap<String, usize>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index() else { continue };
        functions.insert(symbol.name()?.to_owned(), sections.instruction(section, symbol.address())?);
    }
    Ok(functions)
}

fn definitions(file: &File<'_>) -> Result<Vec<Definition>> {
    let section = file.section_by_name(MAPS).context("it has no section of maps")?;
    let bytes = section.data()?;
    let mut maps = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.section_index() == Some(section.index())) {
        if symbol.kind() != SymbolKind::Data {
            continue;
        }
        let words = bytes.get(usize::try_from(symbol.address())?..).map(|bytes| bytes.as_chunks::<4>().0);
        let Some([kind, _, value_size, entries, ..]) = words else { bail!("a map is defined by half") };
        let number = |word: &[u8; 4]| u32::from_le_bytes(*word);
        maps.push(Definition {
            name: symbol.name()?.to_owned(),
            is_array: ARRAYS.contains(&number(kind)),
            value_size: number(value_size),
            entries: number(entries),
        });
    }
    Ok(maps)
}

/// The ELF file for eBPF among other bytes.
fn find_object(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let at = find_elf(rest)?;
        let found = &rest[at..];
        let machine = found.get(..HEADER)?.get(MACHINE..MACHINE + 2)?;
        if machine == EM_BPF.to_le_bytes() {
            return Some(found);
        }
        rest = &found[1..];
    }
}

fn find_elf(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// The map that this number stands for the address of, see [`abi::in_place`].
pub(crate) fn map_in_place(number: u64) -> Option<&'static str> {
    abi::in_place::ALL.into_iter().find(|(_, stands)| *stands == number).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of an ELF file for a machine.
    fn header(machine: u16) -> Vec<u8> {
        let mut header = vec![0; HEADER];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MACHINE..MACHINE + 2].copy_from_slice(&machine.to_le_bytes());
        header
    }

    #[test]
    fn the_object_is_found_among_others() {
        let (host, bpf) = (header(62), header(EM_BPF));
        let binary = [&host[..], MAGIC, &[0; 9], &bpf, b"more"].concat();
        let found = find_object(&binary).expect("there is one");
        assert_eq!(found, [&bpf[..], b"more"].concat());
        assert!(find_object(&host).is_none() && find_object(MAGIC).is_none() && find_object(&[]).is_none());
    }

    #[test]
    fn numbers_stand_for_maps() {
        assert_eq!(map_in_place(abi::in_place::VALID_COOKIES), Some("VALID_COOKIES"));
        assert_eq!(map_in_place(7), None);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let complaint = Program::in_binary("/proc/self/environ".as_ref()).expect_err("none").to_string();
        assert_eq!(complaint, "/proc/self/environ has no eBPF object");
        assert!(Program::parse(&header(EM_BPF)).is_err());
    }
}
