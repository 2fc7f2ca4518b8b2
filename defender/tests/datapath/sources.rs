//! Whom a SYN-ACK may go to, and how many.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use defender_common::{
    abi::{
        CONFIG_PREFIXES, CONFIG_SUSPENDED, MODE_AUTO, MODE_MONITOR, MODE_OFF, PREFIX_ALLOW, PREFIX_DENY,
        SERVICE_UNPROTECTABLE,
    },
    verdict::Reason,
    wire::address::V4,
};
use defender_testbed::frame::{Checksum, TcpFrame, flag};

use super::{
    frames::{ISN, LINUX4, LINUX6, address, at, client4, server_of, syn_to},
    row::{Row, check, row},
    world::{DEAD, DUAL},
};

fn from(text: &str) -> TcpFrame {
    syn_to(at(address(text), 4_000), DUAL)
}

fn odd() -> Vec<Row> {
    let mut rows = Vec::new();
    for source in [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.255.254",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "10.203.0.2",
        "::",
        "::1",
        "ff02::1",
        "ff0e::1234",
        "::ffff:192.0.2.1",
        "2001:db8:0:1::2",
    ] {
        rows.push(row(format!("from {source}"), from(source)).dropped(Reason::SynOddSource));
    }
    rows.extend([
        row("from a local prefix", from("203.0.113.9"))
            .world(|world| world.add_local4([203, 0, 113, 0], 24))
            .dropped(Reason::SynOddSource),
        row("from its own address and port (LAND)", {
            let server = server_of(client4(), DUAL);
            TcpFrame::linux_syn(server, server, ISN)
        })
        .dropped(Reason::SynOddSource),
        row("an acknowledgement from nowhere is no SYN", {
            let source = at(address("127.0.0.1"), 4_000);
            TcpFrame::new(source, server_of(source, DUAL)).flags(flag::ACK).ack(1)
        })
        .dropped(Reason::AckBadCookie),
        row("from the rest of 0/8, which the kernel takes", from("0.1.2.3")).challenged(LINUX4),
        row("from 240/4, which the kernel takes", from("240.0.0.1")).challenged(LINUX4),
        row("from 255.255.255.254", from("255.255.255.254")).challenged(LINUX4),
        row("from 1.0.0.0, the first that is somebody's", from("1.0.0.0")).challenged(LINUX4),
        row("from 126.255.255.255", from("126.255.255.255")).challenged(LINUX4),
        row("from 128.0.0.0", from("128.0.0.0")).challenged(LINUX4),
        row("from 223.255.255.255", from("223.255.255.255")).challenged(LINUX4),
        row("from 10.203.0.3, which might be a broadcast address", from("10.203.0.3")).challenged(LINUX4),
        row("from the broadcast address of the subnet", from("10.203.0.3"))
            .world(|world| world.interface.broadcast4[0] = V4::from(Ipv4Addr::new(10, 203, 0, 3)))
            .dropped(Reason::SynOddSource),
        row("from the broadcast address of another subnet of this host", from("172.17.255.255"))
            .world(|world| world.interface.broadcast4[3] = V4::from(Ipv4Addr::new(172, 17, 255, 255)))
            .dropped(Reason::SynOddSource),
        row("from a link-local address", from("fe80::1")).challenged(LINUX6),
        row("from a unique local address", from("fd00::1")).challenged(LINUX6),
        row("from the client's port 0", syn_to(at(address("198.18.200.1"), 0), DUAL)).challenged(LINUX4),
        row("from a port as high as they go", syn_to(at(address("198.18.200.1"), 65_535), DUAL))
            .challenged(LINUX4),
    ]);
    rows
}

fn budget() -> Vec<Row> {
    let limited = |what: &str, frame: TcpFrame, before: [&str; 3]| {
        let mut row = row(what, frame).world(|world| world.config.reply_budget = 3);
        for source in before {
            row = row.after(from(source));
        }
        row
    };
    let (a, b, c) = ("198.51.100.1", "198.51.100.2", "198.51.100.255");
    let again = from("198.51.101.7");
    vec![
        limited("the fourth from one /24", from("198.51.100.4"), [a, b, c]).dropped(Reason::SynOverBudget),
        limited("the fourth from one address", again.clone(), ["198.51.101.7"; 3])
            .dropped(Reason::SynOverBudget),
        limited("the first of the next /24", from("198.51.102.1"), ["198.51.103.255"; 3]).challenged(LINUX4),
        limited("the fourth, without a budget", from("198.51.104.1"), ["198.51.104.1"; 3])
            .world(|world| world.config.reply_budget = 0)
            .challenged(LINUX4),
        limited(
            "the fourth from one /64",
            from("2001:db8:f:5::9"),
            ["2001:db8:f:5::1", "2001:db8:f:5:ffff::1", "2001:db8:f:5::2"],
        )
        .dropped(Reason::SynOverBudget),
        limited("the first of the next /64", from("2001:db8:f:6::1"), ["2001:db8:f:7::1"; 3])
            .challenged(LINUX6),
        limited("the fourth from one /24, of a known source", from("198.51.107.4"), ["198.51.107.1"; 3])
            .world(|world| world.known = vec![Ipv4Addr::new(198, 51, 107, 4)])
            .challenged(LINUX4),
        row("what is not answered is not charged", from("198.51.105.1"))
            .world(|world| world.config.reply_budget = 1)
            .after(from("198.51.105.1").checksum(Checksum::Wrong))
            .after(from("198.51.105.1").raw_options(&[29, 4, 1, 1]))
            .after(from("198.51.105.1").fragment(0, true))
            .challenged(LINUX4),
        row("an acknowledgement is not charged", from("198.51.106.1"))
            .world(|world| world.config.reply_budget = 1)
            .after(TcpFrame::new(at(address("198.51.106.1"), 9), server_of(client4(), DUAL)).ack(1))
            .challenged(LINUX4),
    ]
}

fn lists() -> Vec<Row> {
    let allow = |row: Row| row.world(|world| world.list4([198, 51, 100, 0], 24, PREFIX_ALLOW));
    let deny = |row: Row| row.world(|world| world.list4([198, 51, 100, 0], 24, PREFIX_DENY));
    let mode = |row: Row, mode| row.world(|world| world.service().mode = mode);
    let syn = || from("198.51.100.7");
    let v6 = |row: Row, list| {
        row.world(|world| {
            let network: Ipv6Addr = "2001:db8:f::".parse().expect("an address");
            world.prefixes.push(((network.octets(), 48), list));
            world.configure(CONFIG_PREFIXES, true);
        })
    };
    vec![
        allow(row("allowed", syn())).passes(Reason::SynAllowed),
        allow(row("next to who is allowed", from("198.51.101.7"))).challenged(LINUX4),
        allow(row("allowed, with a wrong checksum", syn().checksum(Checksum::Wrong)))
            .passes(Reason::SynAllowed),
        allow(mode(row("allowed, calm", syn()), MODE_AUTO)).passes(Reason::SynAllowed),
        allow(mode(row("allowed, monitor", syn()), MODE_MONITOR)).passes(Reason::SynMonitorMode),
        allow(row("allowed, no SYN", stray_from("198.51.100.7"))).dropped(Reason::AckBadCookie),
        deny(row("denied", syn())).dropped(Reason::SynDenied),
        deny(mode(row("denied, calm", syn()), MODE_AUTO)).dropped(Reason::SynDenied),
        deny(mode(row("denied, monitor", syn()), MODE_MONITOR)).passes(Reason::SynMonitorMode),
        deny(mode(row("denied, off", syn()), MODE_OFF)).passes(Reason::ServiceOff),
        deny(row("denied, unprotectable", syn()))
            .world(|world| world.service().flags |= SERVICE_UNPROTECTABLE)
            .dropped(Reason::SynDenied),
        deny(row("denied, suspended", syn()))
            .world(|world| world.configure(CONFIG_SUSPENDED, true))
            .dropped(Reason::SynDenied),
        deny(row("denied, to a port without a listener", syn_to(at(address("198.51.100.7"), 4_000), DEAD)))
            .passes(Reason::SynNoListener),
        deny(row("denied, without the flag", syn()))
            .world(|world| world.configure(CONFIG_PREFIXES, false))
            .challenged(LINUX4),
        allow(row("the longer prefix counts: denied", from("198.51.100.9")))
            .world(|world| world.list4([198, 51, 100, 8], 29, PREFIX_DENY))
            .dropped(Reason::SynDenied),
        allow(row("the longer prefix counts: allowed", syn()))
            .world(|world| world.list4([198, 51, 0, 0], 16, PREFIX_DENY))
            .passes(Reason::SynAllowed),
        v6(row("allowed, IPv6", from("2001:db8:f:9::1")), PREFIX_ALLOW).passes(Reason::SynAllowed),
        v6(row("denied, IPv6", from("2001:db8:f:9::1")), PREFIX_DENY).dropped(Reason::SynDenied),
        v6(row("next to who is denied, IPv6", from("2001:db8:10::1")), PREFIX_DENY).challenged(LINUX6),
    ]
}

fn stray_from(source: &str) -> TcpFrame {
    TcpFrame::new(at(address(source), 4_000), server_of(client4(), DUAL)).flags(flag::ACK).ack(1)
}

pub(super) fn rows() -> Vec<Row> {
    [odd(), budget(), lists()].into_iter().flatten().collect()
}

#[test]
fn sources() -> Result<()> {
    check(&odd())
}

#[test]
fn prefixes() -> Result<()> {
    check(&lists())
}

#[test]
fn reply_budget() -> Result<()> {
    check(&budget())
}
