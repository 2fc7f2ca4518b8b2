//! The levels above the challenge: the reply limit, and who is answered beyond it.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use defender_common::mitigation::{Level, Trigger};
use defender_testbed::{
    capture::Capture,
    controller::{Controller, fresh_pin_root},
    flood::Kind,
    frame::TcpFrame,
    server::Server,
    tcp_info::TcpInfo,
    topology::{CLIENT_INTERFACE, SERVER_INTERFACE, Topology},
};

use crate::{
    auto::bed::{MitigationView, PORT, events, flood, serve, serve_defended, set, topology},
    harness::{
        CLIENT_PATIENCE, Counts, PROGRAM, connect_in_flood, eventually,
        scripted_client::{QUIET, Wire},
        services,
    },
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
        let (server, defender, mitigation) = serve_defended(&bed, address, 512)?;
        set(&defender, &[("80.reply_limit", "500")])?;
        eventually("the limit is set", || Ok(mitigation.triggers()?.replies == 500))?;
        let [known, other] = [bed.fresh_client(address), bed.fresh_client(address)];
        // Without a flood.
        connects(&bed, known, &server)?;

        // More than the limit, and not twice as much. Three strangers of four are answered.
        let handle = flood(Kind::LinuxSyn, address, 620, 40).start(&bed)?;
        let state = mitigation.wait_for(Level::Limit)?;
        assert_eq!(state.trigger, Trigger::Replies);
        connects(&bed, known, &server)?;
        // A stranger comes early in some second, if need be at a later try.
        connects(&bed, other, &server)?;
        eventually("SYNs are dropped", || Ok(Counts::of(&defender)?.get("drop.syn_over_limit") > 100))?;
        assert_eq!(mitigation.mitigation()?, state);
        status_says(&defender, "limit", "replies")?;
        let counts = Counts::of(&defender)?;
        counts.assert(&[("drop.syn_unknown_source", 0)]);
        counts.assert_no_drops_but(&["drop.syn_over_limit"]);
        handle.stop()?;

        let handle = flood(Kind::LinuxSyn, address, 20_000, 30).start(&bed)?;
        let state = mitigation.wait_for(Level::KnownSources)?;
        assert_eq!(state.trigger, Trigger::RepliesTwice);
        let before = Counts::of(&defender)?;
        for known in [known, other] {
            connects(&bed, known, &server)?;
        }
        eventually("SYNs are dropped", || {
            Ok((&Counts::of(&defender)? - &before).get("drop.syn_unknown_source") > 5000)
        })?;
        assert_eq!(mitigation.mitigation()?, state);
        status_says(&defender, "known_sources", "replies_twice")?;
        let counts = &Counts::of(&defender)? - &before;
        counts.assert(&[("drop.syn_over_limit", 0)]);
        counts.assert_no_drops_but(&["drop.syn_unknown_source"]);
        handle.stop()?;
        eventually("all levels are told", || Ok(events(&defender)?.len() >= 3))?;
        let told = events(&defender)?;
        let levels = [told[0]["trigger"].as_str().context("no reason")?, "replies", "replies_twice"];
        let trigger: Vec<_> = told.iter().map(|event| event["trigger"].as_str().unwrap_or("-")).collect();
        assert_eq!(trigger, levels, "{told:?}");
        let names: Vec<_> = told.iter().map(|event| event["level"].as_str().unwrap_or("-")).collect();
        assert_eq!(names, ["challenge", "limit", "known_sources"]);
    }
    Ok(())
}

/// Where known sources come first, strangers are not kept out: some are answered in every second.
#[test]
fn strangers_keep_a_part_of_the_limit() -> Result<()> {
    for mode in ["auto", "always"] {
        let bed = topology()?;
        for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
            let (_server, defender, mitigation) = serve_defended(&bed, address, 512)?;
            set(&defender, &[("80.reply_limit", "500"), ("mode", mode)])?;
            eventually("the limit is set", || Ok(mitigation.triggers()?.replies == 500))?;
            let handle = flood(Kind::LinuxSyn, address, 4_000, 40).start(&bed)?;
            mitigation.wait_for(Level::KnownSources)?;
            let (wire, capture) = (Wire::new(&bed)?, Capture::incoming(&bed.client, CLIENT_INTERFACE)?);
            let strangers = 600;
            for _ in 0..strangers {
                capture.send(TcpFrame::linux_syn(wire.address(address), address, 1).build())?;
                thread::sleep(Duration::from_millis(5));
            }
            let answered = capture.tcp_until_quiet(QUIET)?.len();
            handle.stop()?;
            ensure!(answered > 0, "no stranger of {strangers} is answered in {mode}");
            ensure!(answered < strangers / 2, "{answered} of {strangers} strangers are answered in {mode}");
            ensure!(Counts::of(&defender)?.get("drop.syn_unknown_source") > 1000);
        }
    }
    Ok(())
}

/// What gets no answer uses up no limit: a flood of SYNs with wrong checksums keeps nobody out.
#[test]
fn only_answers_count_as_replies() -> Result<()> {
    let bed = topology()?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        let (server, defender, mitigation) = serve_defended(&bed, address, 512)?;
        set(&defender, &[("80.reply_limit", "300"), ("mode", "always")])?;
        eventually("the limit is set", || Ok(mitigation.triggers()?.replies == 300))?;
        let denied = if address.is_ipv4() { "198.18.0.0/16" } else { "2001:db8:f::/48" };
        defender.ask(&["deny", "add", denied])?;
        let handle = flood(Kind::LinuxSyn, address, 5_000, 30).start(&bed)?;
        eventually("SYNs are denied", || Ok(Counts::of(&defender)?.get("drop.syn_denied") > 10_000))?;
        for _ in 0..5 {
            connects(&bed, bed.fresh_client(address), &server)?;
        }
        handle.stop()?;
        Counts::of(&defender)?.assert_no_drops_but(&["drop.syn_denied"]);
        defender.ask(&["deny", "del", denied])?;
    }
    Ok(())
}

/// A slow interface beside a fast one, by which nothing comes: its speed is no limit for the other.
#[test]
fn a_slow_interface_limits_no_other() -> Result<()> {
    let bed = topology()?;
    bed.server.ip("tuntap add dev slow0 mode tap")?;
    let status = bed
        .server
        .command("ethtool")?
        .args(["-s", "slow0", "speed", "10", "duplex", "full", "autoneg", "off"])
        .status()?;
    ensure!(status.success(), "ethtool failed");
    bed.server.ip("link set slow0 up")?;
    for address in [bed.server_v4(PORT), bed.server_v6(PORT)] {
        for mode in ["auto", "always"] {
            let server = serve(&bed, address, 512)?;
            let interfaces = format!("{SERVER_INTERFACE},slow0");
            let arguments = ["--mode", mode];
            let defender = Controller::start_at(
                &bed.server,
                PROGRAM.as_ref(),
                &interfaces,
                &arguments,
                fresh_pin_root(),
            )?;
            defender.wait_for_listener(PORT)?;
            let mitigation = MitigationView::of(&defender, PORT)?;
            let handle = flood(Kind::LinuxSyn, address, 20_000, 30).start(&bed)?;
            eventually("the flood is challenged", || {
                Ok(Counts::of(&defender)?.get("syn_challenged") > 60_000)
            })?;
            for _ in 0..5 {
                connects(&bed, bed.fresh_client(address), &server)?;
            }
            ensure!(mitigation.mitigation()?.level <= Level::Challenge, "{:?}", mitigation.mitigation()?);
            handle.stop()?;
            Counts::of(&defender)?.assert_no_drops_but(&["drop.ack_bad_cookie"]);
            ensure!(defender.stop()?.success());
        }
    }
    Ok(())
}

fn status_says(defender: &Controller<'_>, level: &str, trigger: &str) -> Result<()> {
    let services = services(defender, PORT)?;
    let service = services.first().context("no service")?;
    ensure!(service["level"] == level && service["trigger"] == trigger, "{service}");
    Ok(())
}
