//! What packets execute and touch, as a table.

use super::words;
use crate::{
    bench::count::{LineCounts, PacketCount},
    format::{aligned, thousands_exact, wrapped},
};

const COUNT: &str = "One packet, interpreted after many of its kind. Instructions: those of eBPF, and twelve for each look-up in \
    an array, which the JIT makes of it; what helpers of the kernel execute and touch is not counted. Lines have 64 bytes. Shared \
    ones are the same for all flows and so in the nearest cache; those of the flow are in no near cache where there are many.";

pub(super) fn print(counted: &[PacketCount]) {
    println!("{}\n\n{}\n", table(counted), wrapped(COUNT));
}

fn table(counted: &[PacketCount]) -> String {
    let header =
        ["packet", "instructions", "look-ups", "lines: shared", "of the flow", "by table", "of the packet"];
    let mut lines = vec![words(&header)];
    for counted in counted {
        let sum = |lines: &LineCounts| lines.values().sum::<usize>().to_string();
        lines.push(vec![
            counted.case.title.to_owned(),
            thousands_exact(counted.instructions as f64),
            counted.look_ups.to_string(),
            sum(&counted.shared),
            sum(&counted.of_flow),
            places(&counted.of_flow),
            sum(&counted.packet),
        ]);
    }
    aligned(&lines, 1)
}

/// The maps, with the number of lines if more than one.
fn places(lines: &LineCounts) -> String {
    let place = |(map, count): (&&str, &usize)| match count {
        1 => (*map).to_owned(),
        _ => format!("{map} ({count})"),
    };
    lines.iter().map(place).collect::<Vec<_>>().join(", ")
}
