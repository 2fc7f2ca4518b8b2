//! The server's firewall, and what its conntrack counts and holds.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{netns::Namespace, topology::Topology};

/// What most hosts have: connections that conntrack knows go on, what it calls invalid is dropped, and a new one is let in by
/// its port.
const STATEFUL: &str = "
    table inet firewall {
        counter new { }
        counter invalid { }
        chain early {
            type filter hook input priority filter - 1; policy accept;
        }
        chain input {
            type filter hook input priority filter; policy drop;
            meta l4proto != tcp accept
            ct state invalid counter name invalid drop
            ct state established,related accept
            tcp dport 80 ct state new counter name new accept
        }
    }";

/// Such a firewall in the server's namespace.
pub(crate) struct Firewall<'a>(&'a Namespace);

impl<'a> Firewall<'a> {
    pub(crate) fn new(bed: &'a Topology) -> Result<Self> {
        let firewall = Self(&bed.server);
        firewall.load(STATEFUL)?;
        Ok(firewall)
    }

    /// Adds a rule before all others.
    pub(crate) fn add(&self, rule: &str) -> Result<()> {
        self.load(&format!("add rule inet firewall early {rule}"))
    }

    /// What `nft -f` reads.
    pub(crate) fn load(&self, rules: &str) -> Result<()> {
        nft(self.0.command("nft")?, rules)
    }

    /// Packets that a named counter has counted.
    pub(crate) fn counted(&self, name: &str) -> Result<u64> {
        let output =
            self.0.command("nft")?.args(["-j", "list", "counter", "inet", "firewall", name]).output()?;
        let listing: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let objects = listing["nftables"].as_array().context("no counter")?;
        objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).context("no counter")
    }

    /// Entries that found another in their place.
    pub(crate) fn clashes(&self) -> Result<u64> {
        let text = self.0.run(|| Ok(fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack")?))?;
        let mut lines = text.lines().map(|line| line.split_whitespace());
        let mut names = lines.next().context("no names")?;
        let column = names.position(|name| name == "insert_failed").context("no insert_failed")?;
        lines.map(|mut cells| Ok(u64::from_str_radix(cells.nth(column).context("no value")?, 16)?)).sum()
    }

    /// The entry of a client's connection.
    pub(crate) fn entry(&self, client: SocketAddr) -> Result<Entry> {
        let text = self.0.run(|| Ok(fs::read_to_string("/proc/thread-self/net/nf_conntrack")?))?;
        let source = match client {
            SocketAddr::V4(client) => format!("src={} ", client.ip()),
            SocketAddr::V6(client) => {
                let groups = client.ip().segments().map(|group| format!("{group:04x}"));
                format!("src={} ", groups.join(":"))
            }
        };
        let port = format!("sport={} ", client.port());
        // The original direction comes first.
        let is_it = |line: &&str| {
            let first = line.find("src=");
            first.is_some() && line.find(&source) == first && line.contains(&port)
        };
        let line = text.lines().find(is_it).with_context(|| format!("no entry of {client} in\n{text}"))?;
        let mut cells = line.split_whitespace().skip(4);
        let seconds = cells.next().context("no timeout")?.parse()?;
        let state = cells.next().context("no state")?.to_owned();
        let replied = !line.contains("[UNREPLIED]");
        Ok(Entry { seconds, state, replied, assured: line.contains("[ASSURED]") })
    }
}

/// What conntrack holds of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When it expires, if nothing comes.
    pub(crate) seconds: u64,
    pub(crate) state: String,
    pub(crate) replied: bool,
    pub(crate) assured: bool,
}

fn nft(mut command: Command, rules: &str) -> Result<()> {
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
