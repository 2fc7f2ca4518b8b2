//! What a frame meets: settings, keys, the interface, services.

use std::net::{Ipv4Addr, SocketAddr};

use defender::dataplane::{clock, maps::Prefix};

use defender_common::{
    abi::{
        self, CONFIG_ECN, CONFIG_PREFIXES, CONFIG_SACK, CONFIG_TIMESTAMPS, CONFIG_WINDOW_SCALING, Config,
        FlowBucket, Interface, KeySlot, Load, MODE_ALWAYS, Port, SERVICE_IN_USE, Service, ServiceKey,
    },
    wire::address::{Address as _, V4, V6},
};
use defender_testbed::topology::{SERVER_MAC, SERVER_V4, SERVER_V6};

/// Both families, by one dual-stack listener.
pub(super) const DUAL: u16 = 80;
/// `0.0.0.0`.
pub(super) const ONLY_V4: u16 = 81;
/// `[::]`, IPv6 only.
pub(super) const ONLY_V6: u16 = 82;
/// Bound to the server's IPv4 address.
pub(super) const BOUND_V4: u16 = 83;
/// Bound to the server's IPv6 address.
pub(super) const BOUND_V6: u16 = 84;
/// A service that the maps hold, but whose listener has gone.
pub(super) const DEAD: u16 = 85;
/// No service and no listener.
pub(super) const UNKNOWN: u16 = 86;

/// Ids that services of a world may have.
pub(super) const SERVICE_IDS: std::ops::RangeInclusive<u32> = 1..=8;

/// The key that cookies of an epoch before both slots were made with.
pub(super) const OLD_KEY: KeySlot = KeySlot::new([0x0d, 0x1e], 5);

/// The contents of the maps.
#[derive(Clone)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) keys: [KeySlot; 2],
    /// An index of 0 stands for the interface that frames come in by.
    pub(super) interface: Interface,
    /// How many slots behind its own the interface is.
    pub(super) probe: u32,
    pub(super) local: Vec<([u8; 16], u32)>,
    pub(super) ports: Vec<(u16, Port)>,
    pub(super) addresses: Vec<(ServiceKey, u32)>,
    pub(super) services: Vec<(u32, Service)>,
    /// Of the service at [`DUAL`]; the second is that of the frame.
    pub(super) load: Load,
    /// Sources that have completed a handshake.
    pub(super) known: Vec<Ipv4Addr>,
    /// What the filter holds of connections: the client, the server, the byte.
    pub(super) noted: Vec<(SocketAddr, SocketAddr, u8)>,
    /// The flow table, which has one bucket.
    pub(super) flows: FlowBucket,
    /// Prefixes on a list.
    pub(super) prefixes: Vec<(Prefix, u32)>,
}

impl World {
    /// The service at [`DUAL`].
    pub(super) fn service(&mut self) -> &mut Service {
        &mut self.services[0].1
    }

    /// The entry of a port with services.
    pub(super) fn port(&mut self, number: u16) -> &mut Port {
        let entry = self.ports.iter_mut().find(|(port, _)| *port == number);
        &mut entry.expect("a port with services").1
    }

    /// The last cookie was sent a moment ago.
    pub(super) fn sent_a_cookie(&mut self) {
        // In the future, and so for longer than a cookie lives: a loaded machine may take that long for all rows.
        self.load.cookie_sent = now().wrapping_add(600_000) | 1;
    }

    /// The last cookie was sent so long ago that it no longer lives.
    pub(super) fn sent_an_expired_cookie(&mut self) {
        self.load.cookie_sent = now().wrapping_sub(62_000) | 1;
    }

    /// Sets or clears bits of the global settings.
    pub(super) fn configure(&mut self, bits: u32, on: bool) {
        if on {
            self.config.flags |= bits;
        } else {
            self.config.flags &= !bits;
        }
    }

    /// Puts IPv4 addresses on a list.
    pub(super) fn list4(&mut self, network: [u8; 4], bits: u32, list: u32) {
        self.prefixes.push(((abi::mapped(network), 96 + bits), list));
        self.configure(CONFIG_PREFIXES, true);
    }

    /// Makes IPv4 addresses this host's, as a local route does.
    pub(super) fn add_local4(&mut self, network: [u8; 4], bits: u32) {
        self.local.push((abi::mapped(network), 96 + bits));
    }
}

impl Default for World {
    /// Every listener is challenged. Windows, scales, TTL and hop limit all differ, so that the right one must be taken.
    fn default() -> Self {
        Self {
            config: Config {
                abi_version: abi::ABI_VERSION,
                key_current: 0,
                flags: CONFIG_TIMESTAMPS | CONFIG_SACK | CONFIG_WINDOW_SCALING | CONFIG_ECN,
                reply_budget: 0,
                secret: [0x5ec2_e7a1_1b2c_3d4e, 0x0102_0304_0506_0708],
                table_keys: [
                    0x9e37_79b9_7f4a_7c15,
                    0xbf58_476d_1ce4_e5b9,
                    0x94d0_49bb_1331_11eb,
                    0x5851_f42d_4c95_7f2d,
                    0xd6e8_feb8_6659_fd93,
                    0x2545_f491_4f6c_dd1d,
                    0xda94_2042_e4dd_58b5,
                    0x8cb9_2ba7_2f3d_8dd7,
                    0xaf25_1af3_b0f0_25b5,
                ],
                ..Config::default()
            },
            keys: [
                KeySlot::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], 6),
                KeySlot::new([0x0f1e_2d3c_4b5a_6978, 0x1122_3344_5566_7788], 7),
            ],
            interface: Interface {
                mac: abi::mac(SERVER_MAC),
                mss4: 1460,
                mss6: 1440,
                ttl: 61,
                hop_limit: 59,
                max_vlan_tags: 1,
                local4: [SERVER_V4.into(), V4(0), V4(0), V4(0)],
                local6: [V6::from(SERVER_V6).halves(), [0; 2]],
                ..Interface::default()
            },
            probe: 0,
            local: Vec::new(),
            ports: vec![
                (DUAL, Port { wildcard4: 1, wildcard6: 1, ..Port::default() }),
                (ONLY_V4, Port { wildcard4: 2, ..Port::default() }),
                (ONLY_V6, Port { wildcard6: 3, ..Port::default() }),
                (BOUND_V4, bound(4, abi::mapped(SERVER_V4.octets()))),
                (BOUND_V6, bound(5, SERVER_V6.octets())),
                (DEAD, Port { wildcard4: 6, wildcard6: 6, ..Port::default() }),
            ],
            addresses: Vec::new(),
            services: (1..=6).map(|id| (id, challenged())).collect(),
            load: Load::default(),
            known: Vec::new(),
            noted: Vec::new(),
            flows: FlowBucket::default(),
            prefixes: Vec::new(),
        }
    }
}

/// A service in mode `always`.
pub(super) fn challenged() -> Service {
    Service {
        mode: MODE_ALWAYS,
        flags: SERVICE_IN_USE,
        window: [[64_240, 65_160], [64_800, 64_260]],
        window_scale: [10, 9],
        ..Service::default()
    }
}

/// A port where one service is bound to an address.
fn bound(id: u16, address: [u8; 16]) -> Port {
    Port { bound: 1, bound_id: id, bound_address: abi::words(address), ..Port::default() }
}

/// The datapath's clock, in milliseconds.
fn now() -> u32 {
    clock::now().expect("a clock").ms
}
