//! What each kind of packet executes and touches, by interpreting the program (`defender_testbed::count`).

use std::{collections::BTreeMap, mem::offset_of};

use anyhow::{Context as _, Result, ensure};
use defender_common::{
    abi::{Counters, Load, map},
    load::Time,
    verdict::Reason,
};
use defender_testbed::{
    count::{Line, Outcome, Owner, Program, World},
    interface,
    netns::Namespace,
    topology::SERVER_INTERFACE,
};

use super::{
    Plan,
    cases::Case,
    field::{self, Field, SERVICE, Sockets},
    frames::{self, Kind, spread},
};

/// The XDP program.
const PROGRAM: &str = defender_common::abi::program::XDP;
/// Packets of one kind, from so many flows by turns; so many of the last count, one of each flow: by then all is as it is in
/// the long run.
const PACKETS: u32 = 64;
const FLOWS: u32 = 8;
/// The moment at which everything happens: no clock changes what is counted. An hour and a half after the machine's start.
const ALWAYS: u64 = 5_000_000_000_000;
/// Flows are so far apart as these many are, so that each is of another prefix.
const AMONG: u32 = 1 << 20;
/// SYNs of a flood that the service has been spared, so many that they are counted in batches.
const SPARED: u64 = 100_000;
/// A cell of look-ups or notes that is beyond any budget of a second.
const EXHAUSTED: u32 = 50_000;

/// What a packet takes.
pub(super) struct Counted {
    pub(super) case: Case,
    /// Instructions of eBPF.
    pub(super) ebpf: u64,
    /// Look-ups in arrays.
    pub(super) look_ups: u64,
    /// Instructions of eBPF, and what look-ups are in those of x86.
    pub(super) instructions: u64,
    /// Lines that are the same for every flow, by map.
    pub(super) shared: Lines,
    /// Lines of the flow, by map.
    pub(super) of_flow: Lines,
    /// Lines of the packet and of its metadata.
    pub(super) packet: Lines,
}

/// How many lines, by whose they are.
pub(super) type Lines = BTreeMap<&'static str, usize>;

/// Counts what packets of these kinds take.
pub(super) fn measure(plan: &Plan, cases: &[Case]) -> Result<Vec<Counted>> {
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
    fn count(&self, program: &Program, field: &mut Field, namespace: &Namespace) -> Result<Counted> {
        let flows = if self.needs_fresh_flows() { PACKETS } else { FLOWS };
        let numbers = (0..flows).map(|place| spread(place, AMONG));
        let (kind, answers) = self.bring_about(field, numbers.clone())?;
        let mut world = self.world(program, field, namespace)?;
        let mut orders = kind.orders(AMONG);
        if kind == Kind::Syn6 {
            // The number goes into the prefix instead of the end of the address: a /64 is what a /24 is over IPv4.
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

    /// The world that its packets meet: the maps as they are now, and what a flood has brought about.
    fn world(&self, program: &Program, field: &Field, namespace: &Namespace) -> Result<World> {
        let ifindex = interface::index(namespace, SERVER_INTERFACE)?;
        let mut world = World::copy(program, &field.defended.maps(), ifindex)?.at(ALWAYS);
        if self.sockets == Sockets::Filter {
            let cell = Time::at(ALWAYS).ms >> 10 << 20 | EXHAUSTED;
            for offset in [offset_of!(Counters, looked_up), offset_of!(Counters, noted)] {
                world.write(map::COUNTERS, offset, &cell.to_ne_bytes())?;
            }
        }
        if self.reason == Reason::SynChallenged {
            let load = SERVICE as usize * size_of::<Load>();
            world.write(map::LOADS, load + offset_of!(Load, spared), &SPARED.to_ne_bytes())?;
            let second = u64::from(Time::at(ALWAYS).second);
            world.write(map::LOADS, load + offset_of!(Load, second), &second.to_ne_bytes())?;
        }
        Ok(world)
    }
}

/// Of packets of as many flows, the one in the middle.
fn counted(case: Case, mut outcomes: Vec<Outcome>) -> Counted {
    let is_shared =
        |outcomes: &[Outcome], line: &Line| outcomes.iter().all(|other| other.lines.contains(line));
    outcomes.sort_by_key(Outcome::instructions);
    let middle = &outcomes[outcomes.len() / 2];
    let (mut shared, mut of_flow, mut packet) = (Lines::new(), Lines::new(), Lines::new());
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
    Counted { case, ebpf, look_ups, instructions, shared, of_flow, packet }
}
