//! What each kind of packet executes and touches, by interpreting the program (`defender_interpreter`).

use std::{collections::BTreeMap, mem::offset_of};

use anyhow::{Context as _, Result, ensure};
use defender_common::{
    abi::{Counters, Load, map},
    load::Time,
    verdict::Reason,
};
use defender_interpreter::{Line, Outcome, Owner, Program, World};
use defender_testbed::{interface, netns::Namespace, topology::SERVER_INTERFACE};

use super::{
    BenchPlan,
    cases::Case,
    field::{self, Field, SERVICE, Sockets},
    frames::{self, Kind, spread},
};

/// The XDP program.
const PROGRAM: &str = defender_common::abi::program::XDP;
/// Packets of one kind, and the number of flows that they alternate between. Only the last packets count,
/// one per flow: by then the state is that of the long run.
const PACKETS: u32 = 64;
const FLOWS: u32 = 8;
/// The fixed time of all packets, so that no clock changes the counts. An hour and a half after boot.
const ALWAYS: u64 = 5_000_000_000_000;
/// Flows are spread as among this many, so that each has another prefix.
const AMONG: u32 = 1 << 20;
/// SYNs of a flood averted from the service: enough that they are counted in batches.
const AVERTED: u64 = 100_000;
/// A cell of lookups or records beyond any budget of a second.
const EXHAUSTED: u32 = 50_000;

/// What a packet takes.
pub(super) struct PacketCount {
    pub(super) case: Case,
    /// Instructions of eBPF.
    pub(super) ebpf: u64,
    /// Array lookups.
    pub(super) look_ups: u64,
    /// eBPF instructions, plus the x86 instructions of lookups.
    pub(super) instructions: u64,
    /// Cache lines shared by all flows, by map.
    pub(super) shared: LineCounts,
    /// Cache lines of the flow, by map.
    pub(super) of_flow: LineCounts,
    /// Cache lines of the packet and of its metadata.
    pub(super) packet: LineCounts,
}

/// The number of cache lines, by owner.
pub(super) type LineCounts = BTreeMap<&'static str, usize>;

/// Counts what packets of these kinds take.
pub(super) fn measure(plan: &BenchPlan, cases: &[Case]) -> Result<Vec<PacketCount>> {
    let program = Program::in_binary(&plan.defender)?;
    let bed = field::topology()?;
    let mut field = Field::new(&bed, &plan.defender, &[])?;
    field.fix(ALWAYS)?;
    let count = |case: &Case| {
        let counted = case.count(&program, &mut field, &bed.server);
        counted.with_context(|| format!("cannot count what {} takes", case.name))
    };
    cases.iter().map(count).collect()
}

impl Case {
    fn count(&self, program: &Program, field: &mut Field, namespace: &Namespace) -> Result<PacketCount> {
        let flows = if self.needs_fresh_flows() { PACKETS } else { FLOWS };
        let numbers = (0..flows).map(|place| spread(place, AMONG));
        let (kind, answers) = self.bring_about(field, numbers.clone())?;
        let mut world = self.world(program, field, namespace)?;
        let mut orders = kind.orders(AMONG);
        if kind == Kind::Syn6 {
            // The number goes into the prefix instead of the end of the address: IPv6 has a /64 where IPv4
            // has a /24.
            orders.source -= 8;
        }
        let mut outcomes = Vec::new();
        for (packet, number) in (0..PACKETS).zip(numbers.cycle()) {
            let answer = answers.get((packet % flows) as usize).copied();
            let outcome = world.run(program, PROGRAM, &frames::frame(&orders, number, answer))?;
            ensure!(
                outcome.reason == Some(self.reason),
                "packet {packet} ended as {}, not as {}",
                outcome.reason.map_or("nothing that is counted", Reason::name),
                self.reason.name()
            );
            outcomes.push(outcome);
        }
        self.clean_up(field)?;
        Ok(counted(*self, outcomes.split_off((PACKETS - FLOWS) as usize)))
    }

    /// The environment of its packets: the current maps, and the effects of a flood.
    fn world(&self, program: &Program, field: &Field, namespace: &Namespace) -> Result<World> {
        let ifindex = interface::index(namespace, SERVER_INTERFACE)?;
        let mut world = World::copy(program, &field.defended.maps(), ifindex)?.at(ALWAYS);
        let cell = Time::at(ALWAYS).ms >> 10 << 20 | EXHAUSTED;
        world.write(map::COUNTERS, offset_of!(Counters, out_of_state), &cell.to_ne_bytes())?;
        if self.sockets == Sockets::Filter {
            for offset in [offset_of!(Counters, looked_up), offset_of!(Counters, noted)] {
                world.write(map::COUNTERS, offset, &cell.to_ne_bytes())?;
            }
        }
        if self.reason == Reason::SynChallenged {
            let load = SERVICE as usize * size_of::<Load>();
            world.write(map::LOADS, load + offset_of!(Load, averted), &AVERTED.to_ne_bytes())?;
            let second = u64::from(Time::at(ALWAYS).second);
            world.write(map::LOADS, load + offset_of!(Load, second), &second.to_ne_bytes())?;
        }
        Ok(world)
    }
}

/// The median packet, one per flow.
fn counted(case: Case, mut outcomes: Vec<Outcome>) -> PacketCount {
    let is_shared =
        |outcomes: &[Outcome], line: &Line| outcomes.iter().all(|other| other.lines.contains(line));
    outcomes.sort_by_key(Outcome::instructions);
    let middle = &outcomes[outcomes.len() / 2];
    let (mut shared, mut of_flow, mut packet) = (LineCounts::new(), LineCounts::new(), LineCounts::new());
    for line in &middle.lines {
        let lines = match line.owner {
            Owner::Packet | Owner::Metadata => &mut packet,
            _ if is_shared(&outcomes, line) => &mut shared,
            _ => &mut of_flow,
        };
        *lines.entry(line.owner.name()).or_default() += 1;
    }
    let instructions = middle.instructions();
    let (ebpf, look_ups) = (middle.count.instructions, middle.count.look_ups);
    PacketCount { case, ebpf, look_ups, instructions, shared, of_flow, packet }
}
