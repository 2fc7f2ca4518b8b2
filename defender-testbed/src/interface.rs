//! Interfaces inside a namespace: index, counters, features.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{command, netns::Namespace};

/// What an interface counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that arrived and were thrown away.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_dropped: u64,
}

/// The index of an interface of the namespace.
pub fn index(namespace: &Namespace, name: &str) -> Result<u32> {
    namespace
        .run(|| nix::net::if_::if_nametoindex(name).with_context(|| format!("there is no interface {name}")))
}

/// Reads the counters of an interface of the namespace.
pub fn statistics(namespace: &Namespace, name: &str) -> Result<Statistics> {
    namespace.run(|| own_statistics(name)).with_context(|| format!("in {}", namespace.name()))
}

/// Reads the counters of an interface of the namespace that the calling thread is in.
pub fn own_statistics(name: &str) -> Result<Statistics> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    parse(&table, name).with_context(|| format!("there is no interface {name}"))
}

/// Switches a feature of an interface, as `ethtool -K` names it.
pub fn set_feature(namespace: &Namespace, name: &str, feature: &str, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    exec(namespace, &["ethtool", "-K", name, feature, state])
}

/// Whether a kernel thread of its own polls each queue of the interface, instead of whichever processor is interrupted.
pub fn set_threaded(namespace: &Namespace, name: &str, threaded: bool) -> Result<()> {
    let threaded = u8::from(threaded);
    exec(namespace, &["sh", "-c", &format!("echo {threaded} > /sys/class/net/{name}/threaded")])
}

/// `ip netns exec` shows the namespace's own `/sys`, which entering the network namespace alone does not.
fn exec(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    let mut all = vec!["netns", "exec", namespace.name()];
    all.extend(arguments);
    command::run("ip", &all).map(drop)
}

fn parse(table: &str, name: &str) -> Option<Statistics> {
    let row = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    let mut columns = row.split_whitespace().map(|column| column.parse().unwrap_or(0));
    Some(Statistics {
        rx_bytes: columns.next()?,
        rx_packets: columns.next()?,
        rx_dropped: columns.nth(1)?,
        tx_packets: columns.nth(5)?,
        tx_dropped: columns.nth(1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Statistics, parse};

    #[test]
    fn the_table_of_interfaces_is_read() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n \
                     srv01: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
                     srv0: 100 1 0 2 0 0 0 0 200 3 0 4 0 0 0 0\n";
        let expected =
            Statistics { rx_bytes: 100, rx_packets: 1, rx_dropped: 2, tx_packets: 3, tx_dropped: 4 };
        assert_eq!(parse(table, "srv0"), Some(expected));
        assert_eq!(parse(table, "eth0"), None);
    }
}
