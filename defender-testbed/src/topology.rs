//! Two namespaces joined by a veth pair, and on demand a third one behind the server.
//!
//! ```text
//!  client                    server                    behind (on demand)
//!  cli0 10.203.0.1/30 ────── srv0 10.203.0.2/30
//!       2001:db8:0:1::1           2001:db8:0:1::2
//!                            srv1 10.203.1.1/30 ────── bhd0 10.203.1.2/30
//!                                 2001:db8:0:2::1           2001:db8:0:2::2
//! ```
//!
//! The client namespace owns all of 10.208.0.0/12 and 2001:db8:c::/48, so that every connection can come from an address
//! that the server never saw. The server routes these and the spoofed ranges to the client end; nobody owns the spoofed
//! ranges. Neighbours are known beforehand: no ARP and no neighbour discovery is needed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    command, cpu, interface,
    line::{LINE_CLIENT_INTERFACE, LINE_SERVER_INTERFACE, Line},
    napi,
    netns::Namespace,
    programs::{Attached, Program},
};

/// Name of the client end of the link.
pub const CLIENT_INTERFACE: &str = "cli0";
/// Name of the server end of the link.
pub const SERVER_INTERFACE: &str = "srv0";
/// Name of the bridge or macvlan device on the server end, where there is one.
pub const UPPER_INTERFACE: &str = "upp0";
/// Name of the server's interface to the host behind it.
pub const ROUTER_INTERFACE: &str = "srv1";
/// Name of the interface of the host behind the server.
pub const BEHIND_INTERFACE: &str = "bhd0";

/// MAC address of the client end.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// MAC address of the server end.
pub const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// MAC address of the server end where another device on it has [`SERVER_MAC`].
const LOWER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x05];
/// MAC address of the server's interface to the host behind it.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x03];
/// MAC address of the host behind the server.
pub const BEHIND_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x04];

/// Address of the client end.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 1);
/// Address of the server end.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 2);
/// Address of the server at its interface to the host behind it.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 203, 1, 1);
/// Address of the host behind the server.
pub const BEHIND_V4: Ipv4Addr = Ipv4Addr::new(10, 203, 1, 2);

/// Address of the client end.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
/// Address of the server end.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);
/// Address of the server at its interface to the host behind it.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);
/// Address of the host behind the server.
pub const BEHIND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 2);

/// First address of the /12 that clients connect from.
const CLIENTS_V4: Ipv4Addr = Ipv4Addr::new(10, 208, 0, 0);
/// Addresses in that /12.
const CLIENTS_V4_COUNT: u32 = 1 << 20;
/// First address of the /48 that clients connect from.
const CLIENTS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0);

/// Which device of the server has its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The server end itself, which takes XDP programs in its driver.
    Veth,
    /// The same with fewer queues to receive from than the other end sends to: it takes XDP programs in generic mode only.
    FewQueues,
    /// A bridge that the server end is a port of.
    Bridge,
    /// A macvlan device on the server end.
    Macvlan,
}

impl Device {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Veth | Self::FewQueues => SERVER_INTERFACE,
            Self::Bridge | Self::Macvlan => UPPER_INTERFACE,
        }
    }

    /// What puts it on the server end; empty where it is that.
    fn commands(self) -> String {
        let mac = mac(SERVER_MAC);
        match self {
            Self::Veth | Self::FewQueues => String::new(),
            Self::Bridge => format!(
                "link add {UPPER_INTERFACE} address {mac} type bridge\n\
                 link set {SERVER_INTERFACE} master {UPPER_INTERFACE}\n\
                 link set {SERVER_INTERFACE} up\n"
            ),
            Self::Macvlan => format!(
                "link set {SERVER_INTERFACE} up\n\
                 link add {UPPER_INTERFACE} link {SERVER_INTERFACE} address {mac} type macvlan mode bridge\n"
            ),
        }
    }
}

/// What the topology should be like. Begin with [`Options::default`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// MTU of the link, in bytes.
    pub mtu: u32,
    /// Which device of the server has its addresses.
    pub device: Device,
    /// Leave the client's TCP checksums to the "hardware", as veth does by default: the bytes then hold only the
    /// pseudo-header's sum.
    pub checksum_offload: bool,
    /// What is attached to the client end. `None` loses what the server end sends with `XDP_TX`.
    pub client_end: Option<Program>,
    /// Give each queue a kernel thread that polls it, and bind those of the server end to this processor.
    pub server_cpu: Option<usize>,
    /// Put those threads before everything else on the machine, for measurements.
    pub urgent: bool,
    /// Put another host behind the server, which then forwards.
    pub behind: bool,
    /// How long the line between client and server takes, one way. With one, both ends send frames as they are on a wire.
    pub delay: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            device: Device::Veth,
            checksum_offload: true,
            client_end: Some(Program::Pass),
            server_cpu: None,
            urgent: false,
            behind: false,
            delay: None,
        }
    }
}

/// The namespaces and what joins them. Dropping it removes all of it.
#[derive(Debug)]
pub struct Topology {
    /// Where clients and floods come from.
    pub client: Namespace,
    /// Where the server is, and the defender.
    pub server: Namespace,
    /// The host that the server forwards to, if there is one.
    pub behind: Option<Namespace>,
    device: Device,
    client_end: Option<Attached>,
    line: Option<Line>,
    next_client: AtomicU32,
}

impl Topology {
    /// Makes the topology with the default options.
    pub fn new() -> Result<Self> {
        Self::with(&Options::default())
    }

    /// Makes the topology.
    pub fn with(options: &Options) -> Result<Self> {
        Self::around(Namespace::new("server")?, options)
    }

    /// Makes the topology around a server that has its network namespace already, such as a container.
    pub fn around(server: Namespace, options: &Options) -> Result<Self> {
        let mut bed = Self::unjoined(server, options.device)?;
        bed.line = bed.add_link(options)?;
        bed.set_addresses()?;
        bed.tune(options)?;
        if options.behind {
            bed.behind = Some(bed.add_behind()?);
        }
        bed.set_client_end(options.client_end)?;
        Ok(bed)
    }

    /// Makes the topology of two devices that are joined outside of this machine: they are moved into the namespaces and
    /// get the names of the ends. Only who owns the machine, such as process 1 of a virtual one, may do so.
    pub fn of_devices(client: &str, server: &str) -> Result<Self> {
        let bed = Self::unjoined(Namespace::new("server")?, Device::Veth)?;
        let ends = [
            (client, &bed.client, CLIENT_INTERFACE, CLIENT_MAC),
            (server, &bed.server, SERVER_INTERFACE, SERVER_MAC),
        ];
        for (device, namespace, name, address) in ends {
            command::run("ip", &["link", "set", device, "netns", namespace.name()])?;
            namespace.ip(&format!("link set {device} name {name} address {}", mac(address)))?;
        }
        bed.set_addresses()?;
        Ok(bed)
    }

    fn unjoined(server: Namespace, device: Device) -> Result<Self> {
        let client = Namespace::new("client")?;
        let bed = Self {
            client,
            server,
            behind: None,
            device,
            client_end: None,
            line: None,
            next_client: AtomicU32::new(0),
        };
        bed.set_sysctls()?;
        Ok(bed)
    }

    /// The name of the device that has the server's addresses.
    pub fn server_device(&self) -> &'static str {
        self.device.name()
    }

    /// The server's IPv4 address with a port.
    pub fn server_v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(SERVER_V4.into(), port)
    }

    /// The server's IPv6 address with a port.
    pub fn server_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(SERVER_V6.into(), port)
    }

    /// A client address that was not used yet, of the family of `like`, with port 0.
    pub fn fresh_client(&self, like: SocketAddr) -> SocketAddr {
        client(self.fresh_clients(1), like)
    }

    /// Sets aside the numbers of so many client addresses that were not used yet; returns the first.
    pub fn fresh_clients(&self, count: u32) -> u32 {
        self.next_client.fetch_add(count, Ordering::Relaxed)
    }

    /// The program at the client end, for its counters.
    pub fn client_end(&self) -> Option<&Attached> {
        self.client_end.as_ref()
    }

    /// Replaces the program at the client end; its counters begin at zero.
    pub fn set_client_end(&mut self, program: Option<Program>) -> Result<()> {
        // The old one must be gone first: an interface takes one program.
        self.client_end = None;
        self.client_end =
            program.map(|program| Attached::new(&self.client, CLIENT_INTERFACE, program)).transpose()?;
        Ok(())
    }

    /// Attaches one of the testbed's programs to the server end.
    pub fn attach_server_end(&self, program: Program) -> Result<Attached> {
        Attached::new(&self.server, SERVER_INTERFACE, program)
    }

    /// Says who takes what arrives at the client end: a thread of its own on that processor, before whatever else runs
    /// there, or, as is usual with a veth, the processor that sends.
    ///
    /// The first keeps the client's work off the server's processor, so that a measurement shows what the server can do;
    /// the second saves the thread's wake-ups, so that it shows how quick the server is.
    pub fn poll_client_end(&self, cpu: Option<usize>) -> Result<()> {
        let Some(cpu) = cpu else {
            return interface::set_threaded(&self.client, CLIENT_INTERFACE, false);
        };
        poll_on(&self.client, CLIENT_INTERFACE, cpu)?;
        napi::threads(&self.client, CLIENT_INTERFACE)?.into_iter().try_for_each(cpu::make_real_time)
    }

    /// Lays the link anew with the same addresses, after somebody has deleted an end of it. Returns what is attached to the
    /// client end then.
    pub fn lay_link_again(&self, options: &Options) -> Result<Option<Attached>> {
        self.add_link(options)?;
        self.set_addresses()?;
        self.tune(options)?;
        options.client_end.map(|program| Attached::new(&self.client, CLIENT_INTERFACE, program)).transpose()
    }

    fn set_sysctls(&self) -> Result<()> {
        for namespace in [&self.client, &self.server] {
            // Addresses are spoofed on purpose, and clients use addresses that no interface carries.
            for scope in ["all", "default"] {
                namespace.set_sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), 0)?;
                namespace.set_sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), 0)?;
            }
            // A listener favours peers it remembers; nobody is to be remembered.
            namespace.set_sysctl("net.ipv4.tcp_no_metrics_save", 1)?;
        }
        self.client.set_sysctl("net.ipv6.ip_nonlocal_bind", 1)
    }

    fn add_link(&self, options: &Options) -> Result<Option<Line>> {
        let mtu = options.mtu;
        let (queues, server_mac) = match self.device {
            Device::Veth => (["", ""], SERVER_MAC),
            Device::FewQueues => {
                ([" numtxqueues 2 numrxqueues 1", " numtxqueues 1 numrxqueues 1"], SERVER_MAC)
            }
            Device::Bridge | Device::Macvlan => (["", ""], LOWER_MAC),
        };
        let [client_queues, server_queues] = queues;
        let client = format!("{CLIENT_INTERFACE} mtu {mtu} address {}{client_queues}", mac(CLIENT_MAC));
        let server = format!("{SERVER_INTERFACE} mtu {mtu} address {}{server_queues}", mac(server_mac));
        let line = match options.delay {
            None => {
                let netns = self.server.name();
                self.client
                    .ip_batch(&format!("link add {client} type veth peer name {server} netns {netns}\n"))?;
                None
            }
            Some(delay) => Some(self.lay_line(&client, &server, mtu, delay)?),
        };
        self.server.ip_batch(&self.device.commands())?;
        Ok(line)
    }

    /// Gives both ends their addresses, routes and neighbours: also after somebody took them, or the link went down.
    pub fn set_addresses(&self) -> Result<()> {
        let client_end = End { interface: CLIENT_INTERFACE, v4: CLIENT_V4, v6: CLIENT_V6 };
        let server_end = End { interface: self.server_device(), v4: SERVER_V4, v6: SERVER_V6 };
        self.client.ip_batch(&client_end.commands(&server_end, SERVER_MAC))?;
        self.server.ip_batch(&server_end.commands(&client_end, CLIENT_MAC))?;
        self.client.ip_batch(&format!(
            "route replace local {CLIENTS_V4}/12 dev lo\nroute replace local {CLIENTS_V6}/48 dev lo\n"
        ))?;
        self.server.ip_batch(&routes_back())
    }

    /// Puts a line that takes its time between both ends, which `ip link add` is told of so.
    fn lay_line(&self, client: &str, server: &str, mtu: u32, delay: Duration) -> Result<Line> {
        let line = Namespace::new("line")?;
        for (namespace, interface, end, peer) in [
            (&self.client, CLIENT_INTERFACE, client, LINE_CLIENT_INTERFACE),
            (&self.server, SERVER_INTERFACE, server, LINE_SERVER_INTERFACE),
        ] {
            let netns = line.name();
            namespace
                .ip_batch(&format!("link add {end} type veth peer name {peer} mtu {mtu} netns {netns}\n"))?;
            for feature in ["tso", "gso", "tx"] {
                interface::set_feature(namespace, interface, feature, false)?;
            }
            line.ip_batch(&format!("link set {peer} addrgenmode none\nlink set {peer} up\n"))?;
        }
        Line::new(line, delay)
    }

    fn tune(&self, options: &Options) -> Result<()> {
        // The server end always polls, whether a program is attached or not, so that rows of a table compare programs
        // and not ways to receive. And only an end that polls can be sent to by XDP.
        interface::set_feature(&self.server, SERVER_INTERFACE, "gro", true)?;
        if !options.checksum_offload {
            interface::set_feature(&self.client, CLIENT_INTERFACE, "tx", false)?;
        }
        if let Some(cpu) = options.server_cpu {
            poll_on(&self.server, SERVER_INTERFACE, cpu)?;
            if options.urgent {
                napi::threads(&self.server, SERVER_INTERFACE)?.into_iter().try_for_each(cpu::prioritise)?;
            }
        }
        Ok(())
    }

    fn add_behind(&self) -> Result<Namespace> {
        let behind = Namespace::new("behind")?;
        behind.set_sysctl("net.ipv6.conf.default.accept_ra", 0)?;
        self.server.set_sysctl("net.ipv4.ip_forward", 1)?;
        self.server.set_sysctl("net.ipv6.conf.all.forwarding", 1)?;
        self.server.ip_batch(&format!(
            "link add {ROUTER_INTERFACE} address {} type veth peer name {BEHIND_INTERFACE} address {} netns {}\n",
            mac(ROUTER_MAC),
            mac(BEHIND_MAC),
            behind.name(),
        ))?;
        let router_end = End { interface: ROUTER_INTERFACE, v4: ROUTER_V4, v6: ROUTER_V6 };
        let behind_end = End { interface: BEHIND_INTERFACE, v4: BEHIND_V4, v6: BEHIND_V6 };
        self.server.ip_batch(&router_end.commands(&behind_end, BEHIND_MAC))?;
        behind.ip_batch(&behind_end.commands(&router_end, ROUTER_MAC))?;
        behind.ip_batch(&format!("route add 0.0.0.0/0 via {ROUTER_V4}\nroute add ::/0 via {ROUTER_V6}\n"))?;
        self.client.ip_batch(&format!(
            "route add {BEHIND_V4}/32 via {SERVER_V4}\nroute add {BEHIND_V6}/128 via {SERVER_V6}\n"
        ))?;
        Ok(behind)
    }
}

/// The client address with this number; IPv4 ones repeat after about a million, none is ever a network's first.
pub fn client_v4(number: u32) -> IpAddr {
    let host = 1 + number % (CLIENTS_V4_COUNT - 2);
    Ipv4Addr::from(u32::from(CLIENTS_V4) + host).into()
}

/// The client address with this number, of the family of `like`, with port 0.
pub fn client(number: u32, like: SocketAddr) -> SocketAddr {
    SocketAddr::new(if like.is_ipv4() { client_v4(number) } else { client_v6(number) }, 0)
}

/// The IPv6 client address with this number.
pub fn client_v6(number: u32) -> IpAddr {
    Ipv6Addr::from(u128::from(CLIENTS_V6) + 1 + u128::from(number)).into()
}

/// One end of the link.
struct End {
    interface: &'static str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl End {
    fn commands(&self, other: &Self, other_mac: [u8; 6]) -> String {
        let (interface, mac) = (self.interface, mac(other_mac));
        format!(
            "link set {interface} addrgenmode none\n\
             address replace {v4}/30 dev {interface}\n\
             address replace {v6}/64 dev {interface} nodad\n\
             link set {interface} up\n\
             neighbour replace {v4_other} lladdr {mac} dev {interface} nud permanent\n\
             neighbour replace {v6_other} lladdr {mac} dev {interface} nud permanent\n",
            v4 = self.v4,
            v6 = self.v6,
            v4_other = other.v4,
            v6_other = other.v6,
        )
    }
}

/// Routes of the server to clients and to spoofed addresses.
fn routes_back() -> String {
    let mut commands = format!(
        "route replace {CLIENTS_V4}/12 via {CLIENT_V4}\n\
         route replace {CLIENTS_V6}/48 via {CLIENT_V6}\n\
         route replace 2001:db8:f::/48 via {CLIENT_V6}\n"
    );
    for range in ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15"] {
        commands += &format!("route replace {range} via {CLIENT_V4}\n");
    }
    commands
}

fn poll_on(namespace: &Namespace, name: &str, cpu: usize) -> Result<()> {
    interface::set_threaded(namespace, name, true)?;
    if cpu < cpu::count() {
        napi::pin(namespace, name, cpu).context("cannot bind the polling threads")?;
    }
    Ok(())
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::{client_v4, client_v6};

    #[test]
    fn client_addresses_stay_in_their_range() {
        assert_eq!(client_v4(0).to_string(), "10.208.0.1");
        assert_eq!(client_v4(0xf_fffd).to_string(), "10.223.255.254");
        assert_eq!(client_v4(0xf_fffe).to_string(), "10.208.0.1");
        assert_eq!(client_v6(0).to_string(), "2001:db8:c::1");
    }
}
