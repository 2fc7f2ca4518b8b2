//! The same checks in every environment. Clients connect with all TCP options, in mode `always` and during a flood in mode
//! `auto`, and data arrives intact both ways.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender_testbed::{
    controller::Controller,
    flood::{Flood, Kind, Range},
    programs::Program,
    server::{self, Server},
    topology::{Device, Options, Topology},
};

use crate::harness::{
    Counts, PROGRAM, clients_connect, connect, eventually,
    process::{self, Scratch},
    services, start, start_always, talk, wait_active,
};

const PORT: u16 = 80;
/// More than a socket buffer, so that segments are merged and split on the way.
const BULK: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;

/// A bed whose server has its addresses on this device.
fn bed(device: Device) -> Result<Topology> {
    Topology::with(&Options { device, client_end: Some(Program::AbsorbFlood), ..Options::default() })
}

/// The server's addresses, one of each family.
fn both(bed: &Topology) -> [SocketAddr; 2] {
    [bed.server_v4(PORT), bed.server_v6(PORT)]
}

/// Clients of both families connect in mode `always`, and what is sent arrives.
fn clients_are_served(device: Device, mode: &str) -> Result<()> {
    let bed = bed(device)?;
    let _servers = both(&bed).map(|address| Server::start(&bed.server, address));
    let defender = start_always(&bed, &[PORT])?;
    let statistics = defender.statistics()?;
    ensure!(statistics["interfaces"][0]["xdp_mode"] == mode, "{}", statistics["interfaces"]);
    for address in both(&bed) {
        let before = Counts::of(&defender)?;
        let clients = clients_connect(&bed, address)?;
        transfer(&bed, address)?;
        (&Counts::of(&defender)? - &before).assert_handed_over(u64::from(clients) + 1);
    }
    Ok(())
}

/// Clients of both families connect while a flood is challenged in mode `auto`.
fn floods_are_challenged(device: Device) -> Result<()> {
    let bed = bed(device)?;
    for address in both(&bed) {
        let _server = Server::start(&bed.server, address)?;
        let defender = start(&bed, &["--mode", "auto"])?;
        defender.wait_for_listener(PORT)?;
        let flood = flood(address).start(&bed)?;
        eventually("the flood is challenged", || Ok(services(&defender, PORT)?[0]["active"] == true))?;
        clients_connect(&bed, address).with_context(|| format!("{:?}", Counts::of(&defender)))?;
        flood.stop()?;
    }
    Ok(())
}

/// Twenty seconds at most, from addresses that no client has.
fn flood(target: SocketAddr) -> Flood {
    let flood = Flood::new(Kind::LinuxSyn, target);
    let source = if target.is_ipv4() { Range::V4([198, 18, 0, 0].into(), 16) } else { flood.source };
    Flood { source, rate: Some(5_000), max_time: Duration::from_secs(20), max_packets: 100_000, ..flood }
}

/// A client sends a lot, and gets it back.
fn transfer(bed: &Topology, to: SocketAddr) -> Result<()> {
    let mut stream = connect(bed, bed.fresh_client(to), to)?;
    let sent: Vec<u8> = (0..BULK).map(|index| (index % 251) as u8).collect();
    let mut received = vec![0; BULK];
    for (sent, received) in sent.chunks(CHUNK).zip(received.chunks_mut(CHUNK)) {
        stream.write_all(sent)?;
        stream.read_exact(received)?;
    }
    ensure!(sent == received, "what came back is not what was sent");
    Ok(())
}

/// Who takes over replaces the program by the one for the mode that the link has.
#[test]
fn a_takeover_keeps_generic_mode() -> Result<()> {
    let bed = bed(Device::Bridge)?;
    let address = bed.server_v4(PORT);
    let _server = Server::start(&bed.server, address)?;
    let first = start_always(&bed, &[PORT])?;
    let mut alive = connect(&bed, bed.fresh_client(address), address)?;
    first.kill()?;
    let pins = first.pin_root().to_owned();
    let second = Controller::start_at(&bed.server, PROGRAM.as_ref(), bed.server_device(), &[], pins)?;
    wait_active(&second, PORT)?;
    talk(&mut alive)?;
    clients_connect(&bed, address)?;
    let statistics = second.statistics()?;
    ensure!(statistics["interfaces"][0]["xdp_mode"] == "generic", "{}", statistics["interfaces"]);
    Ok(())
}

macro_rules! environments {
    ($($name:ident: $device:expr, $mode:literal;)+) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn clients_are_served() -> Result<()> {
                    super::clients_are_served($device, $mode)
                }

                #[test]
                fn floods_are_challenged() -> Result<()> {
                    super::floods_are_challenged($device)
                }
            }
        )+
    };
}

environments! {
    veth: Device::Veth, "native";
    veth_with_few_queues: Device::FewQueues, "generic";
    bridge: Device::Bridge, "generic";
    macvlan: Device::Macvlan, "generic";
}

/// The firewall of the server's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firewall {
    None,
    /// Rules that look at connections and let all pass.
    Conntrack,
    Firewalld,
    Ufw,
    Docker,
}

impl Firewall {
    const ALL: [Self; 5] = [Self::None, Self::Conntrack, Self::Firewalld, Self::Ufw, Self::Docker];

    /// Its rules, as `nft -f` reads them: in short, what these tools make for a host that serves port 80.
    const fn rules(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Conntrack => {
                "table inet t {
                    chain c { type filter hook input priority 0; ct state established counter accept; }
                }"
            }
            Self::Firewalld => {
                "table inet firewalld {
                    chain prerouting { type filter hook prerouting priority mangle + 10; ct state invalid counter; }
                    chain input {
                        type filter hook input priority filter + 10; policy accept;
                        ct state { established, related } accept
                        ct status dnat accept
                        iifname lo accept
                        ct state invalid drop
                        jump zones
                        reject with icmpx admin-prohibited
                    }
                    chain zones { tcp dport 80 ct state { new, untracked } accept; }
                }"
            }
            Self::Ufw => {
                "table inet filter {
                    chain input {
                        type filter hook input priority filter; policy drop;
                        iifname lo accept
                        ct state { established, related } accept
                        ct state invalid counter drop
                        meta l4proto { icmp, ipv6-icmp } accept
                        jump user
                    }
                    chain user { tcp dport 80 accept; }
                }"
            }
            Self::Docker => {
                "table ip nat {
                    chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump docker; }
                    chain docker { iifname docker0 return; tcp dport 8080 dnat to 172.17.0.2:80; }
                    chain postrouting {
                        type nat hook postrouting priority srcnat;
                        ip saddr 172.17.0.0/16 oifname != docker0 masquerade
                    }
                }
                table ip filter {
                    chain forward {
                        type filter hook forward priority filter; policy drop;
                        oifname docker0 ct state { established, related } accept
                    }
                }"
            }
        }
    }
}

/// What the defender does while clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    /// Mode `auto`, and no flood.
    Normal,
    /// Mode `auto`, in a flood that is challenged.
    Flood,
    /// Mode `always`.
    Always,
}

/// Where clients come to.
#[derive(Clone, Copy, Debug)]
struct Environment {
    firewall: Firewall,
    backlog: u32,
    device: Device,
    situation: Situation,
    is_ipv6: bool,
}

const BACKLOGS: [u32; 4] = [1, 5, 128, 4096];
const DEVICES: [Device; 3] = [Device::Veth, Device::FewQueues, Device::Bridge];
const SITUATIONS: [Situation; 3] = [Situation::Normal, Situation::Flood, Situation::Always];

/// Each firewall with each backlog. The rest is dealt out so that any two of these meet as well.
fn environments() -> Vec<Environment> {
    let mut all = Vec::new();
    for (index, firewall) in Firewall::ALL.into_iter().enumerate() {
        for (number, backlog) in BACKLOGS.into_iter().enumerate() {
            let device = DEVICES[(index + number) % DEVICES.len()];
            let situation = SITUATIONS[(index + 2 * number) % SITUATIONS.len()];
            all.push(Environment {
                firewall,
                backlog,
                device,
                situation,
                is_ipv6: (index + number / 2) % 2 == 1,
            });
        }
    }
    all
}

/// Whether some environment has both, for all pairs of what two questions may be answered with.
fn meet<A: PartialEq, B: PartialEq>(
    first: impl Fn(&Environment) -> A,
    firsts: &[A],
    second: impl Fn(&Environment) -> B,
    seconds: &[B],
) -> bool {
    let all = environments();
    firsts.iter().all(|a| seconds.iter().all(|b| all.iter().any(|it| first(it) == *a && second(it) == *b)))
}

#[test]
fn any_two_conditions_meet() {
    let families = [false, true];
    assert!(meet(|it| it.firewall, &Firewall::ALL, |it| it.device, &DEVICES));
    assert!(meet(|it| it.firewall, &Firewall::ALL, |it| it.situation, &SITUATIONS));
    assert!(meet(|it| it.firewall, &Firewall::ALL, |it| it.is_ipv6, &families));
    assert!(meet(|it| it.backlog, &BACKLOGS, |it| it.device, &DEVICES));
    assert!(meet(|it| it.backlog, &BACKLOGS, |it| it.situation, &SITUATIONS));
    assert!(meet(|it| it.backlog, &BACKLOGS, |it| it.is_ipv6, &families));
    assert!(meet(|it| it.device, &DEVICES, |it| it.situation, &SITUATIONS));
    assert!(meet(|it| it.device, &DEVICES, |it| it.is_ipv6, &families));
    assert!(meet(|it| it.situation, &SITUATIONS, |it| it.is_ipv6, &families));
}

fn clients_come_to(environment: Environment) -> Result<()> {
    let Environment { firewall, backlog, device, situation, is_ipv6 } = environment;
    let bed = bed(device)?;
    let address = if is_ipv6 { bed.server_v6(PORT) } else { bed.server_v4(PORT) };
    let scratch = Scratch::new()?;
    scratch.write("rules", firewall.rules().as_bytes())?;
    process::run(&bed.server, "nft", &format!("-f {}", scratch.path("rules").display()))?;
    let options = server::Options { backlog, ..server::Options::default() };
    let _server = Server::with(&bed.server, address, options)?;
    let defender = start(&bed, &["--mode", if situation == Situation::Always { "always" } else { "auto" }])?;
    defender.wait_for_listener(PORT)?;
    let flood = (situation == Situation::Flood).then(|| flood(address).start(&bed)).transpose()?;
    // The kernel takes no hand-off where it does NAT: then it answers itself, and people are told.
    let is_protected = firewall != Firewall::Docker || is_ipv6;
    if !is_protected {
        eventually("it is told that the service cannot be protected", || {
            Ok(services(&defender, PORT)?[0]["unprotectable"].is_string())
        })?;
    } else if situation != Situation::Normal {
        wait_active(&defender, PORT)?;
    }
    if is_protected || situation != Situation::Flood {
        clients_connect(&bed, address)
            .with_context(|| format!("{}", Counts::of(&defender).expect("counts")))?;
        transfer(&bed, address)?;
    }
    let challenged = Counts::of(&defender)?.get("syn_challenged");
    let expected = is_protected && situation != Situation::Normal;
    ensure!((challenged != 0) == expected, "{challenged} SYNs were challenged");
    flood.map_or(Ok(()), |flood| flood.stop().map(drop))
}

#[test]
fn clients_come_to_every_environment() -> Result<()> {
    let failures: Vec<_> = environments()
        .into_iter()
        .filter_map(|it| clients_come_to(it).err().map(|error| format!("* {it:?}\n    {error:#}")))
        .collect();
    ensure!(failures.is_empty(), "{} environments:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
