//! `verdicts.md`, from the table of reasons.

use defender_common::verdict::Reason;

use crate::markdown::{code, head, table};

const INTRODUCTION: &str = "\
Every packet that arrives at a defended interface is counted under exactly one verdict. `stats` and `stats --json` show the
counts, `why` shows the last verdicts on one peer.

* `pass`: the packet goes to the kernel unchanged.
* `drop`: the packet is dropped.
* `tx`: the packet became a SYN-ACK and left by the interface it came in on.

defender challenges SYNs and drops packets as unknown only for services in mode `always`, and in mode `auto` while mitigating. It
looks into the kernel's socket table first; what that holds in any state (SYN_RECV, TIME_WAIT, …) goes to the kernel.

Four drops depend on neither mode nor port: `drop.malformed_ip`, `drop.malformed_tcp`, `drop.fragment_header` and
`drop.extension_chain`. They concern frames to the interface's MAC address, and all but the first only packets to an address of
this host.";

/// The page.
pub(crate) fn page() -> String {
    let rows: Vec<_> = Reason::ALL.map(|reason| [code(reason.name()), reason.describe().to_owned()]).into();
    head("Verdicts", INTRODUCTION) + &table(["verdict", "meaning"], &rows)
}
