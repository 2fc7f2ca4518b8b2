//! What a program meets: a copy of the maps, a packet, a clock, a socket.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use defender_common::{abi::map, verdict::Reason};
use defender_maps::pinned;

use crate::{
    Count, LOOK_UP_INSTRUCTIONS, Line, Owner, Program,
    contents::Contents,
    elf::map_in_place,
    instruction::Place,
    machine::{Machine, STACK},
    memory::{LINE, Memory},
};

/// Where the handle of the first map is: programs hand it to helpers and read nothing there.
const HANDLES: u64 = 0x10_0000;
const HANDLE: u64 = 16;
/// Room before and behind a packet (`XDP_PACKET_HEADROOM`, and more than any SYN-ACK grows by).
const HEADROOM: usize = 256;
const TAILROOM: usize = 256;
/// Most bytes of metadata (`xdp_metalen_invalid`, include/net/xdp.h).
const MOST_METADATA: u32 = 252;
/// Bytes of a frame, at most.
const MOST_FRAME: usize = 2048;
/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex, a u32 each.
const CONTEXT: usize = 24;
/// `struct bpf_sock`, and where it has the state.
const SOCKET: usize = 0x7e00;
const SOCKET_STATE: u64 = 72;
const TCP_LISTEN: u32 = 10;

/// A map, copied.
#[derive(Debug)]
struct Map {
    name: String,
    shape: Shape,
    base: u64,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    is_array: bool,
    stride: usize,
    entries: u32,
}

/// Where the packet's parts begin and end.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    metadata: u64,
    begin: u64,
    end: u64,
}

/// Memory and all that helpers know.
#[derive(Debug)]
pub struct World {
    memory: Memory,
    maps: Vec<Map>,
    data: Vec<u64>,
    stack: u64,
    context: u64,
    room: u64,
    socket: u64,
    packet: Packet,
    ifindex: u32,
    now: u64,
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the program returned.
    pub action: u32,
    /// Metadata, if there is any, and behind it the frame, as they then are.
    pub out: Vec<u8>,
    /// Why, if one verdict was counted.
    pub reason: Option<Reason>,
    /// What was executed.
    pub count: Count,
    /// What was touched.
    pub lines: BTreeSet<Line>,
}

impl Outcome {
    /// Instructions of eBPF, and those that the JIT makes of look-ups ([`LOOK_UP_INSTRUCTIONS`]). What other helpers execute
    /// is not counted.
    pub fn instructions(&self) -> u64 {
        self.count.instructions + self.count.look_ups * LOOK_UP_INSTRUCTIONS
    }
}

impl World {
    /// Copies the maps that are pinned in a directory. Packets come in by an interface, at the moment 0.
    pub fn copy(program: &Program, pins: &Path, ifindex: u32) -> Result<Self> {
        let mut world = Self::empty()?;
        world.ifindex = ifindex;
        let memory = &mut world.memory;
        for bytes in &program.data {
            world.data.push(memory.add(Owner::Constants, bytes.clone())?);
        }
        for definition in &program.maps {
            let name = &definition.name;
            // Maps that are not pinned are scratch.
            let (owner, contents) = match map::ALL.into_iter().find(|pinned| pinned == name) {
                Some(name) => {
                    let map = pinned(pins, name)?;
                    (name, Contents::of(&map).with_context(|| format!("cannot copy the map {name}"))?)
                }
                None => {
                    let size = usize::try_from(definition.value_size)?;
                    ("scratch", Contents::empty(definition.is_array, size, definition.entries))
                }
            };
            let Contents { is_array, stride, entries, bytes } = contents;
            let base = memory.add(Owner::Map(owner), bytes)?;
            let shape = Shape { is_array, stride, entries };
            world.maps.push(Map { name: name.clone(), shape, base });
        }
        Ok(world)
    }

    /// No maps, no constants.
    pub(crate) fn empty() -> Result<Self> {
        let mut memory = Memory::default();
        let stack = memory.add(Owner::Private, vec![0; STACK])?;
        let context = memory.add(Owner::Private, vec![0; CONTEXT])?;
        let room = memory.add(Owner::Packet, vec![0; HEADROOM + MOST_FRAME + TAILROOM])?;
        let socket = memory.add(Owner::Socket, vec![0; SOCKET])?;
        memory.write(socket + SOCKET_STATE, &TCP_LISTEN.to_ne_bytes())?;
        Ok(Self {
            memory,
            maps: Vec::new(),
            data: Vec::new(),
            stack,
            context,
            room,
            socket,
            packet: Packet::default(),
            ifindex: 0,
            now: 0,
        })
    }

    /// The same at another moment, in nanoseconds of the monotonic clock; there time stands still.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        Self { now, ..self }
    }

    /// Writes into the copy of a map, so many bytes after its beginning.
    pub fn write(&mut self, map: &str, offset: usize, bytes: &[u8]) -> Result<()> {
        let base = self.map(map)?.base;
        self.memory.write(base + offset as u64, bytes)
    }

    /// Runs a program with a packet.
    pub fn run(&mut self, program: &Program, function: &str, frame: &[u8]) -> Result<Outcome> {
        ensure!(frame.len() <= MOST_FRAME, "a frame has at most {MOST_FRAME} bytes here");
        let begin = self.room + HEADROOM as u64;
        self.memory.write(begin, frame)?;
        self.packet = Packet { metadata: begin, begin, end: begin + frame.len() as u64 };
        self.write_context()?;
        let before = self.verdicts()?;
        self.memory.take_touched();
        let (action, count) = Machine::run(program, self, function, self.context)?;
        let lines = self.memory.take_touched().into_iter().map(tell_metadata).collect();
        let Packet { metadata, end, .. } = self.packet;
        let out = self.memory.bytes(metadata, usize::try_from(end - metadata)?)?.to_vec();
        let reason = moved(&before, &self.verdicts()?);
        Ok(Outcome { action: action as u32, out, reason, count, lines })
    }

    /// The address of what an instruction names.
    pub(crate) fn address(&self, place: Place) -> Result<u64> {
        Ok(match place {
            Place::Map(number) => HANDLES + number as u64 * HANDLE,
            Place::Data(section, offset) => self.data[section] + offset,
            Place::Number(number) => match map_in_place(number) {
                Some(name) => self.map(name)?.base,
                None => number,
            },
            Place::Code(_) => bail!("the address of a function is loaded"),
        })
    }

    /// The address of a map's value, or 0, and whether the map is an array; all others are empty.
    pub(crate) fn look_up(&mut self, handle: u64, key: u64) -> Result<(u64, bool)> {
        let number = handle.checked_sub(HANDLES).map(|from_first| from_first / HANDLE);
        let map = number.and_then(|number| self.maps.get(usize::try_from(number).ok()?));
        let map = map.with_context(|| format!("there is no map {handle:#x}"))?;
        let Shape { is_array, stride, entries } = map.shape;
        if !is_array {
            return Ok((0, false));
        }
        let base = map.base;
        let index = self.memory.load(key, size_of::<u32>())?;
        let value = if index < entries.into() { base + index * stride as u64 } else { 0 };
        Ok((value, true))
    }

    /// Moves the beginning of the metadata.
    pub(crate) fn adjust_metadata(&mut self, by: i32) -> Result<u64> {
        let metadata = self.packet.metadata.wrapping_add_signed(by.into());
        let length = self.packet.begin.wrapping_sub(metadata);
        if length > MOST_METADATA.into() || length % 4 != 0 {
            return Ok(failure(libc::EINVAL));
        }
        self.packet.metadata = metadata;
        self.write_context()?;
        Ok(0)
    }

    /// Moves the end of the packet.
    pub(crate) fn adjust_tail(&mut self, by: i32) -> Result<u64> {
        let end = self.packet.end.wrapping_add_signed(by.into());
        let most = self.room + (HEADROOM + MOST_FRAME) as u64;
        if end <= self.packet.begin || end > most {
            return Ok(failure(libc::EINVAL));
        }
        // What is new is zero (`bpf_xdp_adjust_tail`, net/core/filter.c).
        if let Ok(more) = usize::try_from(by) {
            self.memory.write(self.packet.end, &vec![0; more])?;
        }
        self.packet.end = end;
        self.write_context()?;
        Ok(0)
    }

    pub(crate) fn packet_length(&self) -> u64 {
        self.packet.end - self.packet.begin
    }

    pub(crate) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    pub(crate) fn stack(&self) -> u64 {
        self.stack
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// A listener: there is one for every packet.
    pub(crate) fn socket(&self) -> u64 {
        self.socket
    }

    /// Programs read addresses of 32 bits; in the kernel the verifier makes real ones of them.
    fn write_context(&mut self) -> Result<()> {
        let Packet { metadata, begin, end } = self.packet;
        let words = [begin as u32, end as u32, metadata as u32, self.ifindex, 0, 0];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.memory.write(self.context, &bytes)
    }

    /// How many packets ended for each reason.
    fn verdicts(&self) -> Result<Vec<u64>> {
        let bytes = self.memory.bytes(self.map(map::COUNTERS)?.base, Reason::COUNT * size_of::<u64>())?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }

    fn map(&self, name: &str) -> Result<&Map> {
        let map = self.maps.iter().find(|map| map.name == name);
        map.with_context(|| format!("the eBPF object has no map {name}"))
    }
}

/// Metadata lies in the room before the packet.
fn tell_metadata(line: Line) -> Line {
    let is_metadata = line.owner == Owner::Packet && line.number < HEADROOM as u64 / LINE;
    if is_metadata { Line { owner: Owner::Metadata, ..line } } else { line }
}

/// The one verdict that was counted.
fn moved(before: &[u64], after: &[u64]) -> Option<Reason> {
    let mut moved = (0..).zip(before.iter().zip(after)).filter(|(_, (before, after))| before != after);
    let (index, (before, after)) = moved.next()?;
    (moved.next().is_none() && before.checked_add(1) == Some(*after)).then(|| Reason::from_index(index))?
}

/// What a helper returns that fails.
fn failure(error: i32) -> u64 {
    i64::from(-error) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verdict_is_told_and_no_more() {
        let before = [5, 5, 5];
        assert_eq!(moved(&before, &[5, 6, 5]), Some(Reason::ALL[1]));
        for after in [[5, 5, 5], [6, 6, 5], [5, 7, 5], [5, 4, 5]] {
            assert_eq!(moved(&before, &after), None, "{after:?}");
        }
    }

    #[test]
    fn packets_grow_and_shrink_within_bounds() -> Result<()> {
        let mut world = World::empty()?;
        let begin = world.room + HEADROOM as u64;
        world.packet = Packet { metadata: begin, begin, end: begin + 60 };
        world.memory.write(begin + 60, &[7; 20])?;
        assert_eq!(world.adjust_tail(20)?, 0);
        assert_eq!(world.memory.bytes(begin + 60, 20)?, [0; 20]);
        assert_eq!(world.adjust_tail(-70)?, 0);
        assert_eq!(world.packet_length(), 10);
        for by in [-10, -11, MOST_FRAME as i32] {
            assert_eq!(world.adjust_tail(by)? as i64, -22, "{by}");
        }
        assert_eq!(world.adjust_metadata(-8)?, 0);
        for by in [-3, 12, -248] {
            assert_eq!(world.adjust_metadata(by)? as i64, -22, "{by}");
        }
        assert_eq!(world.packet.metadata, begin - 8);
        Ok(())
    }
}
