//! What the tests of `top` show: a server with an attack on one of its services.

use defender_common::{
    abi::Listed,
    mitigation::{Level, Trigger},
    tcp_state::State,
    verdict::Reason,
};

use crate::{
    model::{
        endpoint::Endpoint,
        event::{Record, tests::example as event},
        evidence::{Evidence, Network},
        mode::Mode,
        settings::Settings,
        triggers::TriggerInputs,
    },
    report::{
        connection_list::Connection,
        explain::Defended,
        snapshot::{Snapshot, tests::example as snapshot},
        top::{data::Data, detail::Detail, look::Look, reading::Reading, state::Top},
    },
};

/// 2026-02-01T00:00:12Z.
const TIME: u64 = 1_769_904_012_000;

pub(super) const PLAIN: Look = Look { colour: false, unicode: true };

/// All is quiet.
pub(super) fn quiet() -> Snapshot {
    let mut quiet = snapshot();
    quiet.warnings.clear();
    quiet.settings = Settings::default();
    let web = &mut quiet.services[0];
    (web.mode, web.active, web.syn_rate) = (Mode::Auto, false, 12);
    web.states.insert("SYN_RECV", 1);
    quiet.rates[Reason::Established as usize] = 3100;
    quiet.rates[Reason::SynNotMitigating as usize] = 12;
    quiet
}

/// A flood on port 80.
pub(super) fn flood() -> Snapshot {
    let mut flood = quiet();
    let web = &mut flood.services[0];
    (web.active, web.level, web.trigger) = (true, Level::Challenge, Trigger::HalfOpen);
    (web.syn_rate, web.averted, web.attack_seconds) = (41_200, 4096, Some(12));
    web.states.insert("SYN_RECV", 67);
    web.evidence = Evidence {
        sources: 38_321,
        completed: Some(0.003),
        networks: vec![
            Network { prefix: "192.0.2.0/24".into(), share: 0.21 },
            Network { prefix: "198.51.100.0/24".into(), share: 0.07 },
        ],
        ..Evidence::default()
    };
    flood.rates[Reason::SynNotMitigating as usize] = 0;
    flood.rates[Reason::SynChallenged as usize] = 41_188;
    flood.rates[Reason::Cookie as usize] = 12;
    flood
}

pub(super) fn reading(found: Result<Snapshot, String>, seconds: u64, events: Vec<Record>) -> Reading {
    Reading { time: TIME + seconds * 1000, found, events }
}

/// After some quiet seconds, the flood has come.
pub(super) fn top(look: Look) -> Top {
    let mut top = calm_top(look);
    for second in 5..12 {
        let events = if second == 5 { vec![event()] } else { Vec::new() };
        let mut flood = flood();
        flood.services[0].syn_rate = 5000 * second;
        top.update(reading(Ok(flood), second, events));
    }
    top.update(reading(Ok(flood()), 12, Vec::new()));
    top
}

/// Some quiet seconds.
pub(super) fn calm_top(look: Look) -> Top {
    let first = reading(Ok(quiet()), 0, Vec::new());
    let mut top = Top::new(look, Data::new(quiet(), &first));
    for second in 1..5 {
        top.update(reading(Ok(quiet()), second, Vec::new()));
    }
    top
}

/// Limits and connections of a service.
pub(super) fn detail(endpoint: Endpoint) -> Detail {
    let defended = Defended {
        id: 7,
        endpoint,
        settings: Settings::default(),
        inputs: TriggerInputs { backlog: 128, listeners: 1, cpus: 2, ..TriggerInputs::default() },
        half_open: 67,
        averted: 4096,
        level: Level::Challenge,
        trigger: Trigger::HalfOpen,
        unprotectable: None,
    };
    let line = |service, state, last| Listed {
        service,
        remote: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last],
        remote_port: 50_000,
        local: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1],
        local_port: endpoint.port,
        state: state as u8,
        wire_state: state as u8,
        admitted: 2,
        packets: 7,
        began: 3,
        ..Listed::default()
    };
    let lines = [line(7, State::Established, 9), line(7, State::SynRecv, 10), line(8, State::SynRecv, 11)];
    let connections = lines.iter().filter_map(|line| Connection::from_abi(line, 70)).collect();
    Detail::of(defended, connections)
}
