//! Whom a SYN-ACK may go to, and how many.

use anyhow::Result;
use defender_common::verdict::Reason;
use defender_testbed::frame::{TcpFrame, flag};

use super::{
    frames::{ISN, LINUX4, LINUX6, address, at, client4, server_of, syn_to},
    row::{Row, check, row},
    world::DUAL,
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
        row("what is not answered is not charged", from("198.51.105.1"))
            .world(|world| world.config.reply_budget = 1)
            .after(from("198.51.105.1").checksum(defender_testbed::frame::Checksum::Wrong))
            .after(from("198.51.105.1").raw_options(&[29, 4, 1, 1]))
            .after(from("198.51.105.1").fragment(0, true))
            .challenged(LINUX4),
        row("an acknowledgement is not charged", from("198.51.106.1"))
            .world(|world| world.config.reply_budget = 1)
            .after(TcpFrame::new(at(address("198.51.106.1"), 9), server_of(client4(), DUAL)).ack(1))
            .challenged(LINUX4),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [odd(), budget()].into_iter().flatten().collect()
}

#[test]
fn sources() -> Result<()> {
    check(&odd())
}

#[test]
fn reply_budget() -> Result<()> {
    check(&budget())
}
