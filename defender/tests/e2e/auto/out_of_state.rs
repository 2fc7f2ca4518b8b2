//! Floods of packets that belong to no connection.

use anyhow::Result;
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::flood::Kind;

use crate::{
    auto::bed::{MitigationView, PORT, events, flood, serve, service_is, start_auto, summary, topology},
    harness::{Counts, clients_connect, eventually, traffic::Traffic},
};

#[test]
fn floods_of_acks_and_of_rsts_are_noticed_and_dropped() -> Result<()> {
    let kinds = [
        (Kind::Ack, "drop.ack_bad_cookie", "ack_flood"),
        (Kind::PlainAck, "drop.ack_bad_cookie", "ack_flood"),
        (Kind::Rst, "drop.rst_unknown", "rst_flood"),
    ];
    let bed = topology()?;
    for target in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let _server = serve(&bed, target, 512)?;
        for (kind, reason, name) in kinds {
            let defender = start_auto(&bed, &[PORT])?;
            let mitigation = MitigationView::of(&defender, PORT)?;
            let traffic = Traffic::to(&bed, &[target])?;
            let handle = flood(kind, target, 50_000, 30).start(&bed)?;
            let mitigation = mitigation.wait_for(Level::Challenge)?;
            assert_eq!(mitigation.trigger, Trigger::OutOfState, "{kind:?}");
            service_is(&defender, PORT, true)?;
            clients_connect(&bed, target)?;
            traffic.flows()?;
            eventually("the flood is dropped", || Ok(Counts::of(&defender)?.get(reason) > 50_000))?;
            handle.stop()?;
            let counts = Counts::of(&defender)?;
            counts.assert_no_drops_but(&[reason]);
            traffic.end()?;
            eventually("the attack is told", || Ok(!events(&defender)?.is_empty()))?;
            let told = summary(&events(&defender)?);
            assert_eq!(told, [format!("began challenge out_of_state {name}")]);
        }
    }
    Ok(())
}
