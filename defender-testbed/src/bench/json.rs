//! The results as JSON.

use defender_testbed::{budget, meter::Subject};
use serde_json::{Value, json};

use super::{
    BenchPlan, BenchReport, Priced, aims, bulk::Bulk, count::PacketCount, growth::Grown, limits,
    packets::Cost,
};
use crate::rounds::{DefenceRow, Figure};

/// Version of the JSON.
const VERSION: u32 = 1;

/// Everything, times in nanoseconds and rates per second.
pub(crate) fn json(plan: &BenchPlan, report: &BenchReport) -> Value {
    json!({
        "version": VERSION,
        "quick": plan.quick,
        "rounds": plan.rounds,
        "packets": report.packets.iter().map(|priced| packet(report, priced)).collect::<Vec<_>>(),
        "floors": report.floors.iter().map(floor).collect::<Vec<_>>(),
        "verified_instructions": report.instructions.iter().map(|(name, count)| {
            json!({ "program": name, "instructions": count,
                "budget": budget::verified_instructions(name) })
        }).collect::<Vec<_>>(),
        "counted": report.counted.iter().map(counted).collect::<Vec<_>>(),
        "end_to_end": report.end_to_end.iter().map(row).collect::<Vec<_>>(),
        "bulk": report.bulk.iter().map(bulk).collect::<Vec<_>>(),
        "growth": report.growth.as_ref().map(growth),
        "aims": aims::all(report).iter().map(|aim| {
            json!({ "what": aim.what, "found": figure(&aim.found), "aim": aim.aim(), "met": aim.is_met() })
        }).collect::<Vec<_>>(),
        "complaints": report.complaints(),
    })
}

fn packet(report: &BenchReport, priced: &Priced) -> Value {
    let [few, many] = priced.case.aims;
    json!({
        "packet": priced.case.name,
        "title": priced.case.title,
        "few_flows": cost(&priced.few),
        "many_flows": priced.many.as_ref().map(cost),
        "aim_few": few,
        "aim_many": many,
        "xdp_synproxy": priced.case.peers.map(|(synproxy, _)| synproxy),
        "xdpcookie": priced.case.peers.map(|(_, xdpcookie)| xdpcookie),
        "ratio_to_swap": limits::ratio(report, &priced.few),
        "ratio_limit": priced.case.most,
    })
}

fn floor((subject, _, price): &(Subject, Option<u32>, Cost)) -> Value {
    json!({ "floor": name(*subject), "cost": cost(price) })
}

/// A floor's name.
pub(super) fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Method => "drop",
        Subject::ParseDrop => "parse_drop",
        Subject::Read => "one_read",
        Subject::Swap => "swap_tx",
        Subject::Program => "program",
    }
}

fn cost(cost: &Cost) -> Value {
    json!({ "flows": cost.flows, "net": figure(&cost.net), "method": figure(&cost.method) })
}

fn counted(counted: &PacketCount) -> Value {
    json!({
        "packet": counted.case.name,
        "title": counted.case.title,
        "instructions": counted.instructions,
        "ebpf_instructions": counted.ebpf,
        "look_ups": counted.look_ups,
        "lines_shared": counted.shared,
        "lines_of_flow": counted.of_flow,
        "lines_of_packet": counted.packet,
    })
}

fn row(row: &DefenceRow) -> Value {
    json!({
        "defence": row.cell.defence.name(),
        "flood": row.cell.level.rate(),
        "full_speed": figure(&row.full_speed),
        "offered_per_second": figure(&row.offered),
        "taken_per_second": figure(&row.taken),
        "answered_per_second": figure(&row.answered),
        "cpu_ns_per_packet": figure(&row.nanoseconds),
        "answered_per_second_best": row.best.map(|best| best.answered),
        "cpu_ns_per_packet_best": row.best.map(|best| best.nanoseconds),
        "success": row.pooled_success(),
        "success_by_round": figure(&row.success),
        "connect_p50_us": row.p50.as_ref().map(figure),
        "connect_p99_us": row.p99.as_ref().map(figure),
    })
}

fn bulk(bulk: &Bulk) -> Value {
    json!({
        "between": bulk.between.name(),
        "flooded": bulk.flooded,
        "bits_per_second": figure(&bulk.rate),
    })
}

fn growth(growth: &Grown) -> Value {
    let points = |points: &[(f64, Cost)]| {
        points.iter().map(|(at, price)| json!({ "at": at, "cost": cost(price) })).collect::<Vec<_>>()
    };
    let costs = growth
        .costs
        .iter()
        .map(|growth| json!({ "by": growth.name, "title": growth.title, "points": points(&growth.points) }));
    let maps = growth.memory.at_start.iter().map(|map| (map.map.to_owned(), map.bytes.into()));
    json!({
        "costs": costs.collect::<Vec<_>>(),
        "memory_at_start": maps.collect::<serde_json::Map<_, _>>(),
        "bytes_per_flow": growth.memory.per_flow,
        "bytes_per_prefix": growth.memory.per_prefix,
    })
}

fn figure(figure: &Figure) -> Value {
    json!({ "median": figure.median, "min": figure.least, "max": figure.most })
}
