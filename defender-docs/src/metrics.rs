//! `metrics.md`, from the table of metrics and those of the counters that they export.

use defender::{
    host::nic_drops,
    model::section_table::SectionKey,
    report::{
        connection_list::STATES,
        metrics::families::{FAMILIES, Family, Kind, REST, without_prefix},
    },
};
use defender_common::abi::{Handoff, ServiceCounters, Tracked};

use crate::markdown::{code, head, table};

const INTRODUCTION: &str = "\
`/metrics` serves these, in OpenMetrics to whoever accepts it and in Prometheus' text format 0.0.4 to all others, where
[`metrics.listen`](settings.md#sections-of-the-configuration-file) is set. [Monitor a server](../how-to/monitor.md) says how to scrape them.
Counters count from the moment that defender was attached, and go on across restarts of the controller. A reading is at most a second
old.

No label holds a client's address. `service` is the service's address and port, such as `[::]:80`. The first 128 services have
series of their own; all others are summed under `other`, where a number that is 1 or 0 for one service says how many it is 1 for.";

/// The page.
pub(crate) fn page() -> String {
    let metrics: Vec<_> = FAMILIES.iter().map(row).collect();
    let outcomes: Vec<_> = FAMILIES.iter().flat_map(of_service).collect();
    let handoffs = Handoff::ALL.map(|outcome| described(outcome.name(), outcome.describe()));
    let flows = Tracked::ALL.map(|what| described(what.name(), what.describe()));
    let states: Vec<_> = STATES.iter().map(|state| code(state.name())).collect();
    let drops: Vec<_> = nic_drops::names().map(code).collect();
    [
        head("Metrics", INTRODUCTION),
        table(["metric", "type", "labels", "what it says"], &metrics),
        "\n## Values of labels\n\n`verdict` and `reason` are those of [verdicts](verdicts.md). `state` is ".to_owned(),
        format!("{}. `counter` of NIC drops is {}.\n", listed(&states), listed(&drops)),
        "\n### By service\n".to_owned(),
        table(["metric", "label", "what it counts"], &outcomes),
        format!("\n### Outcomes of {}\n", code("defender_handoffs_total")),
        table(["outcome", "what it counts"], &handoffs),
        format!("\n### Events of {}\n", code("defender_flows_total")),
        table(["event", "what it counts"], &flows),
        "\n## Probes\n\n".to_owned(),
        "`/healthz` answers 200 while the control loop turns, and 503 once it has not for ten seconds. `/readyz` answers 200 while \
         every interface is attached, up and defended, and 503 with the reasons otherwise. Other paths are 404, other methods than \
         GET and HEAD 405. A client gets one answer for each connection, and has three seconds to ask and ten for everything; of \
         more than 32 at once, the one that has taken longest is sent away.\n"
            .to_owned(),
        format!("\n{} takes {}. {}\n", code(&SectionKey::MetricsListen.to_string()), SectionKey::MetricsListen.allowed(), SectionKey::MetricsListen.description()),
    ]
    .concat()
}

fn row(family: &Family) -> [String; 4] {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Info => "info",
    };
    let labels: Vec<_> = family.labels.iter().map(|label| code(label)).collect();
    [code(&family.full_name()), kind.to_owned(), labels.join(", "), family.help.to_owned()]
}

/// The values of the label of a metric that a service's counters are exported as.
fn of_service(family: &Family) -> Vec<[String; 3]> {
    let exported = ServiceCounters::ALL.into_iter().zip(ServiceCounters::EXPORTED);
    let counters = exported.filter_map(|((_, description), exported)| {
        let exported = exported.filter(|exported| Some(exported.metric) == family.service_metric())?;
        Some((exported.label, description))
    });
    let counters: Vec<_> = counters.collect();
    let Some(label) = family.labels.get(1) else { return Vec::new() };
    let row = |value: &str, description: &str| {
        [code(&family.full_name()), code(&format!("{label}=\"{value}\"")), description.to_owned()]
    };
    let all = counters.iter().find(|(value, _)| value.is_none());
    let labelled = counters.iter().filter_map(|(value, description)| Some(row((*value)?, description)));
    labelled.chain(all.map(|(_, description)| row(REST, &format!("The rest of: {description}")))).collect()
}

fn described(name: &str, description: &str) -> [String; 2] {
    [code(without_prefix(name)), description.to_owned()]
}

fn listed(names: &[String]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        names => names.concat(),
    }
}
