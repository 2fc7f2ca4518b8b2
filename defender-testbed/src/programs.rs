//! The testbed's own XDP programs: the client end of the link, and the ceilings at the server end.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::PerCpuArray,
    programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions},
};

use crate::{
    abi::{FloodState, InjectFrame, counter},
    netns::Namespace,
};

/// The object with all programs of the testbed.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/defender-testbed-ebpf"));

// SAFETY: `repr(C)`, made of integers without padding.
unsafe impl Pod for FloodState {}
// SAFETY: `repr(C)`, made of integers without padding.
unsafe impl Pod for InjectFrame {}

/// A program that can be attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Passes everything. The client end needs it at least, or what the server end sends with `XDP_TX` is lost.
    Pass,
    /// At the client end: ends answers to the spoofed ranges, passes everything else.
    Absorb,
    /// At the client end: the same, but answers to clients made of frames pass ([`crate::simulated_clients`]).
    AbsorbFlood,
    /// At the server end: drops what comes from the spoofed ranges, passes everything else.
    DropRange,
    /// At the server end: sends SYNs from the spoofed ranges back with nothing but the addresses swapped.
    SwapTx,
    /// At the server end: the same, with every byte of an IPv4 SYN read and written once.
    RewriteTx,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Absorb => "absorb",
            Self::AbsorbFlood => "absorb_flood",
            Self::DropRange => "drop_range",
            Self::SwapTx => "swap_tx",
            Self::RewriteTx => "rewrite_tx",
        }
    }
}

/// What a program counted since it was attached, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets seen.
    pub packets: u64,
    /// SYN-ACKs to the spoofed ranges (client end).
    pub spoofed_syn_acks: u64,
    /// Other packets to the spoofed ranges (client end).
    pub spoofed_others: u64,
    /// SYN-ACKs to any other address (client end).
    pub syn_acks: u64,
    /// Packets that `DropRange` dropped.
    pub dropped: u64,
    /// Packets that `SwapTx` or `RewriteTx` sent back.
    pub sent_back: u64,
}

impl Counters {
    /// All that went to the spoofed ranges.
    pub fn spoofed(&self) -> u64 {
        self.spoofed_syn_acks + self.spoofed_others
    }
}

/// A program attached natively to an interface; dropping it detaches it.
#[derive(Debug)]
pub struct Attached {
    ebpf: Ebpf,
}

impl Attached {
    /// Loads the program and attaches it to the interface of the namespace.
    pub fn new(namespace: &Namespace, interface: &str, program: Program) -> Result<Self> {
        let mut ebpf = load_object()?;
        let xdp = load_program(&mut ebpf, program.name())?;
        namespace
            .run(|| Ok(xdp.attach(interface, XdpMode::Driver)?))
            .with_context(|| format!("cannot attach {} to {interface}", program.name()))?;
        Ok(Self { ebpf })
    }

    /// Reads the counters, all processors summed.
    pub fn counters(&self) -> Result<Counters> {
        let read = |index| read_counter(&self.ebpf, index);
        Ok(Counters {
            packets: read(counter::PACKETS)?,
            spoofed_syn_acks: read(counter::SPOOFED_SYN_ACKS)?,
            spoofed_others: read(counter::SPOOFED_OTHERS)?,
            syn_acks: read(counter::SYN_ACKS)?,
            dropped: read(counter::DROPPED)?,
            sent_back: read(counter::SENT_BACK)?,
        })
    }
}

/// A program of someone else at tcx: it counts packets and leaves them to the next one. Dropping it detaches it.
#[derive(Debug)]
pub struct Watcher {
    ebpf: Ebpf,
}

impl Watcher {
    /// Loads the program and attaches it to the interface of the namespace.
    pub fn new(
        namespace: &Namespace,
        interface: &str,
        direction: TcAttachType,
        order: LinkOrder,
    ) -> Result<Self> {
        let mut ebpf = load_object()?;
        let program: &mut SchedClassifier =
            ebpf.program_mut("watch").context("the object has no program watch")?.try_into()?;
        program.load().context("the kernel refuses the program watch")?;
        namespace
            .run(|| {
                let options = TcAttachOptions::TcxOrder(order);
                Ok(program.attach_with_options(interface, direction, options)?)
            })
            .with_context(|| format!("cannot attach watch to {interface}"))?;
        Ok(Self { ebpf })
    }

    /// Packets it saw since it was attached.
    pub fn packets(&self) -> Result<u64> {
        read_counter(&self.ebpf, counter::PACKETS)
    }
}

fn read_counter(ebpf: &Ebpf, index: u32) -> Result<u64> {
    let map = ebpf.map("COUNTERS").context("the object has no map COUNTERS")?;
    let map = PerCpuArray::<_, u64>::try_from(map)?;
    Ok(map.get(&index, 0)?.iter().sum())
}

/// Loads the object with its maps, but no program yet.
pub(crate) fn load_object() -> Result<Ebpf> {
    load_object_with(&[])
}

/// The same, with other numbers of entries for these maps.
pub(crate) fn load_object_with(entries: &[(&'static str, u32)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (map, entries) in entries {
        loader.map_max_entries(map, *entries);
    }
    loader.load(OBJECT).context("cannot load the testbed's eBPF object; are you root?")
}

/// Loads one program of the object into the kernel.
pub(crate) fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let xdp: &mut Xdp = program.try_into()?;
    xdp.load().with_context(|| format!("the kernel refuses the program {name}"))?;
    Ok(xdp)
}
