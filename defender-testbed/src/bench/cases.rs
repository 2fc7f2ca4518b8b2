//! The kinds of packets to measure, with aims, peers and limits.

use defender_common::verdict::Reason;

use super::{
    field::{ServiceMode, Sockets},
    frames::Kind,
};

/// A kind of packet in one situation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) frame: Frame,
    pub(super) mode: ServiceMode,
    pub(super) sockets: Sockets,
    /// The expected verdict.
    pub(super) reason: Reason,
    /// The aim with few flows, and with many, in nanoseconds.
    pub(super) aims: [Option<f64>; 2],
    /// Cost in xdp_synproxy and xdpcookie, with few flows.
    pub(super) peers: Option<(f64, f64)>,
    /// The limit of the ratio to a bare swap (see `limits`): one and a half times the measured one.
    pub(super) most: f64,
    /// The number of instructions when last checked (see `limits`).
    pub(super) instructions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Fixed(Kind),
    /// An acknowledgement of a valid cookie.
    Cookie,
    /// The same, from clients that connect for the first time.
    NewCookie,
    /// Data of a connection that is in the tables.
    Established,
    /// A SYN that passes and is entered in the tables.
    Opening,
}

/// All kinds, in the order of the table.
pub(super) const CASES: [Case; 15] = [
    Case::new("syn", "SYN → SYN-ACK", Frame::Fixed(Kind::Syn), ServiceMode::Always, Reason::SynChallenged)
        .at_most(4.6)
        .takes(1_235)
        .aims(80.0, 121.0)
        .peers(233.0, 162.0),
    Case::new(
        "syn_ipv6",
        "SYN → SYN-ACK, IPv6",
        Frame::Fixed(Kind::Syn6),
        ServiceMode::Always,
        Reason::SynChallenged,
    )
    .at_most(5.6)
    .takes(1_424)
    .aims(95.0, 144.0)
    .peers(248.0, 183.0),
    Case::new(
        "syn_vlan",
        "SYN → SYN-ACK, VLAN tag",
        Frame::Fixed(Kind::SynTagged),
        ServiceMode::Always,
        Reason::SynChallenged,
    )
    .at_most(4.7)
    .takes(1_240),
    Case::new(
        "syn_auto",
        "SYN → SYN-ACK, auto",
        Frame::Fixed(Kind::Syn),
        ServiceMode::Mitigating,
        Reason::SynChallenged,
    )
    .at_most(4.6)
    .takes(1_252)
    .aims(80.0, 121.0),
    Case::new(
        "syn_lookup",
        "SYN → SYN-ACK, socket look-up",
        Frame::Fixed(Kind::Syn),
        ServiceMode::Always,
        Reason::SynChallenged,
    )
    .at_most(7.5)
    .takes(1_400)
    .aims(110.0, 167.0)
    .asks_table(),
    Case::new("cookie", "valid cookie, again", Frame::Cookie, ServiceMode::Always, Reason::Cookie)
        .at_most(4.2)
        .takes(963)
        .aims(70.0, 106.0)
        .peers(110.0, 93.0),
    Case::new(
        "cookie_new",
        "valid cookie, new client",
        Frame::NewCookie,
        ServiceMode::Always,
        Reason::Cookie,
    )
    .at_most(7.5)
    .takes(1_059)
    .aims(70.0, 106.0)
    .peers(110.0, 93.0),
    Case::new("forged", "forged ACK", Frame::Fixed(Kind::Forged), ServiceMode::Always, Reason::AckBadCookie)
        .at_most(3.4)
        .takes(938)
        .aims(60.0, 91.0)
        .peers(94.0, 102.0),
    Case::new(
        "forged_lookup",
        "forged ACK, socket look-up",
        Frame::Fixed(Kind::Forged),
        ServiceMode::Always,
        Reason::AckBadCookie,
    )
    .at_most(5.6)
    .takes(1_075)
    .aims(90.0, 137.0)
    .asks_table(),
    Case::new(
        "data_not_mitigating",
        "data, auto, not mitigating",
        Frame::Established,
        ServiceMode::Normal,
        Reason::Established,
    )
    .at_most(2.0)
    .takes(218)
    .aims(15.0, 23.0),
    Case::new(
        "data_attacked",
        "data, auto, mitigating",
        Frame::Established,
        ServiceMode::Mitigating,
        Reason::Connection,
    )
    .at_most(2.4)
    .takes(410)
    .aims(40.0, 61.0),
    Case::new(
        "data_always",
        "data, mode always",
        Frame::Established,
        ServiceMode::Always,
        Reason::Connection,
    )
    .at_most(2.4)
    .takes(403)
    .aims(40.0, 61.0),
    Case::new(
        "syn_not_mitigating",
        "SYN passes, auto, not mitigating",
        Frame::Opening,
        ServiceMode::Normal,
        Reason::SynNotMitigating,
    )
    .at_most(6.6)
    .takes(1_031),
    Case::new(
        "syn_monitor",
        "SYN passes, monitor",
        Frame::Opening,
        ServiceMode::Monitor,
        Reason::SynMonitorMode,
    )
    .at_most(6.6)
    .takes(1_035),
    Case::new("udp", "UDP", Frame::Fixed(Kind::Udp), ServiceMode::Always, Reason::NotTcp)
        .at_most(1.6)
        .takes(93)
        .aims(6.0, 9.0)
        .peers(2.0, 3.0),
];

impl Case {
    const fn new(
        name: &'static str,
        title: &'static str,
        frame: Frame,
        mode: ServiceMode,
        reason: Reason,
    ) -> Self {
        let sockets = Sockets::Filter;
        Self {
            name,
            title,
            frame,
            mode,
            sockets,
            reason,
            aims: [None; 2],
            peers: None,
            most: 99.0,
            instructions: u64::MAX / 2,
        }
    }

    const fn aims(self, few: f64, many: f64) -> Self {
        Self { aims: [Some(few), Some(many)], ..self }
    }

    const fn peers(self, xdp_synproxy: f64, xdpcookie: f64) -> Self {
        Self { peers: Some((xdp_synproxy, xdpcookie)), ..self }
    }

    const fn at_most(self, most: f64) -> Self {
        Self { most, ..self }
    }

    const fn takes(self, instructions: u64) -> Self {
        Self { instructions, ..self }
    }

    /// The presence filter is disabled.
    const fn asks_table(self) -> Self {
        Self { sockets: Sockets::Table, ..self }
    }
}
