//! `counters.md`, from the tables of counters.

use defender::report::snapshot::TOTALS;
use defender_common::abi::{Handoff, ServiceCounters, Tracked};

use crate::markdown::{code, head, table};

const INTRODUCTION: &str = "\
`counters` of `stats --json`, and the counters that `stats` prints. They count from the moment that defender was attached, and go
on across restarts of the controller. The counters of [verdicts](verdicts.md) add up to `rx_packets`.";

const OF_A_SERVICE: &str = "
## Counters of a service

`services[].counters` of `stats --json` and `status --json`. `stats` prints those that are not zero.
";

/// The page.
pub(crate) fn page() -> String {
    let totals = TOTALS.iter().map(|total| [code(total.name), total.description.to_owned()]);
    let handoffs = Handoff::ALL.map(|outcome| [code(outcome.name()), outcome.describe().to_owned()]);
    let tracked = Tracked::ALL.map(|what| [code(what.name()), what.describe().to_owned()]);
    let rows: Vec<_> = totals.chain(handoffs).chain(tracked).collect();
    let of_a_service = ServiceCounters::ALL.map(|(name, description)| [code(name), description.to_owned()]);
    let columns = ["counter", "what it counts"];
    head("Counters", INTRODUCTION) + &table(columns, &rows) + OF_A_SERVICE + &table(columns, &of_a_service)
}
