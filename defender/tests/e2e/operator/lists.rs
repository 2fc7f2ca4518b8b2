//! Long lists are written while others get their turn.

use std::{fmt::Write as _, net::Ipv4Addr, path::PathBuf, process::Stdio};

use anyhow::{Result, ensure};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use nix::sys::signal::Signal;

use crate::{
    harness::{PATIENCE, eventually, process::Scratch},
    operator::bed::{PORT, Running, serve, succeeded, topology, wait},
};
use defender_testbed::topology::Topology;

/// So many prefixes that writing them takes a while.
const MANY: u32 = 500_000;

/// A file of so many addresses.
fn long_list(scratch: &Scratch) -> Result<PathBuf> {
    let mut text = String::new();
    for number in 0..MANY {
        writeln!(text, "{}", address(number))?;
    }
    scratch.write("long", text)
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + number)
}

/// While the list is being written, settings change and listeners are found.
fn others_get_their_turn(bed: &Topology, defender: &Running<'_>, port: u16) -> Result<()> {
    let maps = Maps::open(&PinRoot::new(&defender.pins)?)?;
    let last = defender::model::prefix::Cidr::from(std::net::IpAddr::from(address(MANY - 1))).mapped();
    eventually("it begins", || Ok(!maps.prefixes.is_empty()?))?;
    succeeded(&defender.ask(&["set", &format!("{port}.mode"), "monitor"])?)?;
    ensure!(maps.prefixes.get(last)?.is_none(), "`set` waits until all is written");
    let _server = serve(bed, bed.server_v4(port))?;
    defender.wait_for_listener(port)?;
    ensure!(maps.prefixes.get(last)?.is_none(), "listeners go unnoticed until all is written");
    eventually("all is written", || Ok(maps.prefixes.get(last)?.is_some()))?;
    Ok(())
}

#[test]
fn by_hand() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    let scratch = Scratch::new()?;
    let list = long_list(&scratch)?.display().to_string();
    let defender = Running::start(&bed, &[], |_| {})?;
    let mut add = defender.command(&["deny", "add", "--file", &list])?.stderr(Stdio::null()).spawn()?;
    others_get_their_turn(&bed, &defender, 81)?;
    ensure!(wait(&mut add, PATIENCE)?.success());
    let told = succeeded(&defender.ask(&["deny", "list", "--limit", "1"])?)?;
    ensure!(told.contains("500,000") || told.contains("499,999"), "{told}");
    let flushed = succeeded(&defender.ask(&["deny", "flush", "--json"])?)?;
    ensure!(flushed.contains("\"removed\":500000,"), "{flushed}");
    ensure!(Maps::open(&PinRoot::new(&defender.pins)?)?.prefixes.is_empty()?);
    Ok(())
}

#[test]
fn by_file_and_by_the_next_controller() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    let scratch = Scratch::new()?;
    let config = scratch.write("config.toml", "")?.display().to_string();
    let list = long_list(&scratch)?.display().to_string();
    let mut defender = Running::start(&bed, &["--config", &config], |_| {})?;
    let with_list = format!("mode = \"monitor\"\ndeny_file = \"{list}\"\n");
    scratch.write("config.toml", &with_list)?;
    defender.send(Signal::SIGHUP)?;
    others_get_their_turn(&bed, &defender, 81)?;
    eventually("the settings are in force", || {
        Ok(succeeded(&defender.ask(&["get", "mode"])?)?.contains("monitor"))
    })?;

    // Without, and with it again at a take-over.
    scratch.write("config.toml", "")?;
    defender.send(Signal::SIGHUP)?;
    let maps = Maps::open(&PinRoot::new(&defender.pins)?)?;
    eventually("the list is empty", || maps.prefixes.is_empty())?;
    scratch.write("config.toml", &with_list)?;
    defender.again(&["--config", &config])?;
    others_get_their_turn(&bed, &defender, 82)?;
    // And it ends at once while it is at it.
    scratch.write("config.toml", "")?;
    defender.send(Signal::SIGHUP)?;
    ensure!(defender.stop()?.success());
    ensure!(!defender.pins.exists(), "something is left");
    Ok(())
}
