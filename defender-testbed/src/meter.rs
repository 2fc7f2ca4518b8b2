//! What a program costs per packet, by test runs.
//!
//! See `ebpf/src/measure.rs` for how a frame is fresh in each run.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp, XdpMode},
};

use crate::{
    abi::{MEASURED_LINES, MEASURED_MAX, Orders},
    cpu, interface,
    netns::Namespace,
    programs,
};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nothing but the method itself.
    Method,
    /// Reads what tells a SYN, and drops it.
    ParseDrop,
    /// Reads one word of a large table, by who sent the packet, and drops it.
    Read,
    /// Swaps addresses and sends the packet back.
    Swap,
    /// The program that [`Meter::set_program`] has been given.
    Program,
}

impl Subject {
    /// All but the last.
    pub const FLOORS: [Self; 4] = [Self::Method, Self::ParseDrop, Self::Read, Self::Swap];
    /// The programs that these are, in the same order.
    const PROGRAMS: [&'static str; 4] = ["bare_drop", "parse_drop", "one_read", "bare_swap"];
}

/// What a run showed.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Nanoseconds a packet, the method's own included.
    pub nanoseconds: f64,
    /// What the program returned for the last packet.
    pub action: u32,
}

/// The program that calls others, and its maps.
pub struct Meter<'a> {
    namespace: &'a Namespace,
    ebpf: Ebpf,
    orders: Array<MapData, Orders>,
    programs: ProgramArray<MapData>,
    ifindex: u32,
    cpu: usize,
    next: u64,
}

// SAFETY: `repr(C)`, made of integers without padding.
unsafe impl aya::Pod for Orders {}

impl<'a> Meter<'a> {
    /// Frames come in by `interface` of the namespace, and are taken by processor `cpu`.
    ///
    /// `idle`, an interface of another namespace that nothing is sent to, gets the program attached: a test run of a
    /// program that is attached nowhere makes the kernel rewrite code and wait for all processors, twice.
    pub fn new(
        namespace: &'a Namespace,
        interface: &str,
        cpu: usize,
        idle: Option<(&Namespace, &str)>,
    ) -> Result<Self> {
        let mut ebpf = programs::load_object_with(&[("LINES", MEASURED_LINES)])?;
        let mut programs = ProgramArray::try_from(ebpf.take_map("PROGRAMS").context("no map PROGRAMS")?)?;
        for (slot, name) in (0..).zip(Subject::PROGRAMS) {
            programs.set(slot, programs::load_program(&mut ebpf, name)?.fd()?, 0)?;
        }
        let xdp = programs::load_program(&mut ebpf, "measure")?;
        if let Some((namespace, interface)) = idle {
            namespace
                .run(|| Ok(xdp.attach(interface, XdpMode::Driver)?))
                .context("cannot attach the meter")?;
        }
        let orders = Array::try_from(ebpf.take_map("ORDERS").context("no map ORDERS")?)?;
        let ifindex = interface::index(namespace, interface)?;
        Ok(Self { namespace, ebpf, orders, programs, ifindex, cpu, next: 0 })
    }

    /// Says what [`Subject::Program`] is.
    pub fn set_program(&mut self, program: &ProgramFd) -> Result<()> {
        self.programs.set(Subject::Program as u32, program, 0).context("cannot call the measured program")
    }

    /// Sets the acknowledgement numbers, in the order in which flows come.
    pub fn set_answers(&mut self, answers: impl Iterator<Item = u32>) -> Result<()> {
        let map = self.ebpf.map_mut("ANSWERS").context("no map ANSWERS")?;
        let mut map = Array::<_, u32>::try_from(map)?;
        for (flow, answer) in (0..).zip(answers) {
            map.set(flow, answer.to_be(), 0)?;
        }
        Ok(())
    }

    /// Runs `count` frames through a program. The next run goes on with the flows where this one ended, unless `again`.
    pub fn run(&mut self, orders: &Orders, subject: Subject, count: u32, again: bool) -> Result<Run> {
        let orders = Orders { program: subject as u32, next: self.next, ..*orders };
        self.orders.set(0, orders, 0)?;
        if !again {
            self.next += u64::from(count);
        }
        let frame: Vec<u8> = orders.template.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let frame = &frame[..(orders.len as usize).min(MEASURED_MAX)];
        let context = context(frame.len(), self.ifindex);
        let xdp: &Xdp = self.ebpf.program("measure").context("no program measure")?.try_into()?;
        let result = self.namespace.run(|| {
            cpu::pin_current(self.cpu)?;
            cpu::prioritise(0)?;
            let options = TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat: count,
                ..TestRunOptions::default()
            };
            xdp.test_run(options).context("cannot run the meter")
        })?;
        Ok(Run { nanoseconds: result.duration.as_nanos() as f64, action: result.return_value })
    }
}

/// `struct xdp_md` (include/uapi/linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(length: usize, ifindex: u32) -> Vec<u8> {
    [0, length as u32, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}
