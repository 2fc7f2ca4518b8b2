//! The steps above the challenge: the reply limit, and who is answered beyond it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use defender_common::ladder::{Because, Step};
use defender_testbed::{
    controller::Controller, flood::Kind, server::Server, tcp_info::TcpInfo, topology::Topology,
};

use crate::{
    bed::{PORT, events, flood, serve_defended, set, topology},
    hand::{Kind as HandKind, Wire},
    support::{CLIENT_PATIENCE, Counts, connect_in_flood, eventually, services},
};

/// A client connects, and has all that TCP can.
fn connects(bed: &Topology, from: SocketAddr, server: &Server) -> Result<()> {
    let (stream, _) = connect_in_flood(bed, from, server.address())?;
    let info = TcpInfo::of(&stream)?;
    ensure!(info.has_all_options(), "not all options: {info:?}");
    let accepted = server.wait_for(stream.local_addr()?, CLIENT_PATIENCE)?;
    ensure!(accepted.info.has_all_options(), "not all options: {accepted:?}");
    Ok(())
}

#[test]
fn beyond_the_reply_limit_known_sources_are_answered() -> Result<()> {
    let bed = topology()?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let (server, defender, ladder) = serve_defended(&bed, address, 512)?;
        set(&defender, &[("80.reply_limit", "500")])?;
        eventually("the limit is set", || Ok(ladder.lines()?.replies == 500))?;
        let [known, other] = [bed.fresh_client(address), bed.fresh_client(address)];
        let wire = Wire::new(&bed)?;
        // In calm.
        connects(&bed, known, &server)?;

        // More than the limit, and not twice as much. Three strangers of four are answered.
        let handle = flood(Kind::LinuxSyn, address, 620, 40).start(&bed)?;
        let posture = ladder.wait_for(Step::Limit)?;
        assert_eq!(posture.because, Because::Replies);
        connects(&bed, known, &server)?;
        // A stranger comes early in some second, if need be at a later try.
        connects(&bed, other, &server)?;
        eventually("SYNs are dropped", || Ok(Counts::of(&defender)?.get("drop.syn_over_limit") > 100))?;
        assert_eq!(ladder.posture()?, posture);
        status_says(&defender, "limit", "replies")?;
        let counts = Counts::of(&defender)?;
        counts.assert(&[("drop.syn_unknown_source", 0)]);
        counts.assert_no_drops_but(&["drop.syn_over_limit"]);
        handle.stop()?;

        let handle = flood(Kind::LinuxSyn, address, 20_000, 30).start(&bed)?;
        let posture = ladder.wait_for(Step::KnownSources)?;
        assert_eq!(posture.because, Because::RepliesTwice);
        let before = Counts::of(&defender)?;
        for known in [known, other] {
            connects(&bed, known, &server)?;
        }
        let stranger = wire.client(address, HandKind::Linux)?;
        stranger.send(&[stranger.syn()])?;
        stranger.expect_silence()?;
        eventually("SYNs are dropped", || {
            Ok((&Counts::of(&defender)? - &before).get("drop.syn_unknown_source") > 5000)
        })?;
        assert_eq!(ladder.posture()?, posture);
        status_says(&defender, "known_sources", "replies_twice")?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("drop.syn_over_limit", 0)]);
        counts.assert_no_drops_but(&["drop.syn_unknown_source"]);
        handle.stop()?;
        eventually("all steps are told", || Ok(events(&defender)?.len() >= 3))?;
        let told = events(&defender)?;
        let steps = [told[0]["because"].as_str().context("no reason")?, "replies", "replies_twice"];
        let because: Vec<_> = told.iter().map(|event| event["because"].as_str().unwrap_or("-")).collect();
        assert_eq!(because, steps, "{told:?}");
        let names: Vec<_> = told.iter().map(|event| event["step"].as_str().unwrap_or("-")).collect();
        assert_eq!(names, ["challenge", "limit", "known_sources"]);
    }
    Ok(())
}

fn status_says(defender: &Controller<'_>, step: &str, because: &str) -> Result<()> {
    let services = services(defender, PORT)?;
    let service = services.first().context("no service")?;
    ensure!(service["step"] == step && service["because"] == because, "{service}");
    Ok(())
}
