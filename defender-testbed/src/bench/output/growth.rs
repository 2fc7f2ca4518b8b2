//! How costs and memory grow, as a table.

use super::{figure, words};
use crate::{
    bench::growth::Grown,
    format::{aligned, thousands_exact, wrapped},
};

pub(super) fn print(growth: &Grown) {
    println!("{}\n\n{}\n", costs(growth), memory(growth));
}

fn costs(growth: &Grown) -> String {
    let mut lines = vec![words(&["growth", "", "ns: min", "median", "max"])];
    for growth in &growth.costs {
        for (at, cost) in &growth.points {
            let mut line = vec![growth.title.to_owned(), thousands_exact(*at)];
            line.extend(figure(Some(cost.net)));
            lines.push(line);
        }
    }
    aligned(&lines, 1)
}

fn memory(growth: &Grown) -> String {
    let memory = &growth.memory;
    let total: u64 = memory.at_start.iter().map(|map| map.bytes).sum();
    let mut maps: Vec<_> = memory.at_start.iter().collect();
    maps.sort_by_key(|map| std::cmp::Reverse(map.bytes));
    let largest = maps.iter().take(5).map(|map| format!("{} {}", map.map, mebibytes(map.bytes)));
    wrapped(&format!(
        "Memory of all maps at start: {} ({}). Each connection more that the flow table is made for: {:.0} bytes. Each \
         prefix on a list: {:.0} bytes.",
        mebibytes(total),
        largest.collect::<Vec<_>>().join(", "),
        memory.per_flow,
        memory.per_prefix,
    ))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
