//! `explain`: when a service is defended, and why, as text and JSON. Pure.

use anyhow::{Context as _, Result};
use defender_common::mitigation::{Level, Trigger};
use serde::Serialize;

use crate::{
    model::{
        endpoint::Endpoint,
        mode::Mode,
        prose::paragraph,
        setting_table::{Setting, Unit, Value},
        settings::{InForce, Settings, Source},
        triggers::{Basis, Derivation, DerivedTriggers, Described, TriggerInputs},
    },
    report::{VERSION, table},
};

/// A service to explain.
#[derive(Clone, Debug)]
pub struct Defended {
    /// Its id, as connections name it.
    pub id: u32,
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// What was set.
    pub settings: Settings,
    /// What its triggers are derived from.
    pub inputs: TriggerInputs,
    /// Connections that the kernel holds half open.
    pub half_open: u32,
    /// Connections that would be half open as well, had their SYNs not been challenged or dropped.
    pub averted: u32,
    /// Its current level.
    pub level: Level,
    /// What triggered the level.
    pub trigger: Trigger,
    /// Why it cannot be protected.
    pub unprotectable: Option<String>,
}

impl Defended {
    fn basis(&self) -> Basis<'_> {
        Basis { settings: &self.settings, port: self.endpoint.port, inputs: &self.inputs }
    }

    fn in_force(&self, setting: Setting) -> InForce<'_> {
        self.basis().in_force(setting)
    }

    fn mode(&self) -> Mode {
        self.settings.mode_of(self.endpoint.port)
    }

    fn triggers(&self) -> impl Iterator<Item = Described> {
        DerivedTriggers::new(&self.settings, self.endpoint.port, &self.inputs).all().into_iter()
    }
}

/// As text.
pub fn text(services: &[Defended], width: usize) -> String {
    services.iter().map(|defended| service(defended, width)).collect::<Vec<_>>().join("\n")
}

fn service(service: &Defended, width: usize) -> String {
    format!("{}\n{}\n{}", headline(service, width), triggers(service, width), thresholds(service, width))
}

/// Mode, level and reason in words.
pub(super) fn headline(service: &Defended, width: usize) -> String {
    let mode = service.in_force(Setting::Mode);
    let present = match (&service.unprotectable, service.mode()) {
        (Some(reason), _) => format!("unprotectable: {reason}"),
        (None, Mode::Auto) => stands(service),
        (None, Mode::Always) if service.level > Level::Challenge => stands(service),
        (None, Mode::Always) => {
            "every SYN is challenged; the only trigger is replies, above which known sources come first"
                .to_owned()
        }
        (None, mode) => format!("triggers count in mode auto only; in mode {mode} SYNs pass"),
    };
    let headline = format!(
        "{}: mode {} ({}); {} half-open, {} averted, backlog {}",
        service.endpoint,
        mode.shown(),
        mode.source,
        service.half_open,
        service.averted,
        service.inputs.backlog,
    );
    paragraph(&headline, 2, width) + &paragraph(&present, 2, width)
}

fn stands(Defended { level, trigger, .. }: &Defended) -> String {
    format!("level {}: {}, because {}", level.name(), level.describe(), trigger.describe())
}

fn triggers(service: &Defended, width: usize) -> String {
    table::fit(&["limit", "value", "unit", "derived from"], &trigger_rows(service), width)
}

/// The same without units.
#[cfg(feature = "top")]
pub(super) fn limits(service: &Defended) -> String {
    let mut rows = trigger_rows(service);
    for row in &mut rows {
        row.remove(2);
    }
    table::render(&["limit", "value", "derived from"], &rows)
}

fn trigger_rows(service: &Defended) -> Vec<Vec<String>> {
    let row = |Described { name, unit, derived }: Described| {
        let (value, unit) = match (derived.from, derived.value) {
            (Derivation::Unknown, _) => ("not set".to_owned(), table::NONE),
            // Where the datapath has 0, it does not compare.
            (_, 0) if name == "replies" => ("no limit".to_owned(), table::NONE),
            (_, value) => (value.to_string(), unit),
        };
        vec![name.to_owned(), value, unit.to_owned(), service.basis().describe(&derived)]
    };
    service.triggers().map(row).collect()
}

fn thresholds(service: &Defended, width: usize) -> String {
    let row = |threshold: Setting| {
        let found = service.in_force(threshold);
        let key = match found.source {
            Source::Default => found.source.to_string(),
            source => format!("{source}: {}", found.key),
        };
        vec![threshold.name().to_owned(), found.shown(), key, threshold.description().to_owned()]
    };
    let rows: Vec<Vec<String>> = Setting::thresholds().map(row).collect();
    table::fit(&["threshold", "value", "from", "meaning"], &rows, width)
}

#[derive(Serialize)]
struct Explained<'a> {
    /// Version of the shape: 1.
    version: u32,
    /// The services on the port.
    services: Vec<ExplainedService<'a>>,
}

#[derive(Serialize)]
struct ExplainedService<'a> {
    /// The service's port.
    port: u16,
    /// The service's address; `0.0.0.0` or `::` for every address.
    address: String,
    /// The mode in force.
    mode: &'static str,
    /// Where the mode comes from.
    mode_from: From<'a>,
    /// Connections in SYN_RECV.
    half_open: u32,
    /// Connections that would be half open as well, had their SYNs not been challenged or dropped; `end` counts both.
    averted: u32,
    /// The mitigation level: `pass`, `challenge`, `limit`, `known_sources`.
    level: &'static str,
    /// What triggered the level, as in events.
    trigger: &'static str,
    /// Why the service cannot be protected.
    unprotectable: Option<&'a str>,
    /// What the triggers are derived from.
    inputs: TriggerInputs,
    /// The trigger levels in force.
    triggers: Vec<ExplainedTrigger>,
    /// The thresholds in force.
    thresholds: Vec<ExplainedThreshold<'a>>,
}

/// Where a value comes from.
#[derive(Serialize)]
struct From<'a> {
    /// `set`, `file` or `default`.
    source: &'static str,
    /// Path of the file.
    file: Option<&'a str>,
    /// The key that the value was found under.
    key: String,
}

#[derive(Serialize)]
struct ExplainedTrigger {
    /// The trigger's name.
    name: &'static str,
    /// Its value.
    value: u32,
    /// What it is compared with.
    unit: &'static str,
    /// What it was derived from: `set`, `file`, `default`, `backlog`, `learnt`, `link`.
    sources: Vec<&'static str>,
    /// The same in words.
    derived_from: String,
}

#[derive(Serialize)]
struct ExplainedThreshold<'a> {
    /// The threshold's key.
    name: &'static str,
    /// Its value; null if that depends on the host.
    value: Option<u32>,
    /// What it is counted in.
    unit: &'static str,
    /// Where the value comes from.
    from: From<'a>,
}

impl<'a> From<'a> {
    fn of(found: &InForce<'a>) -> Self {
        let file = match found.source {
            Source::File(path) => path.to_str(),
            Source::Set | Source::Default => None,
        };
        Self { source: found.source.name(), file, key: found.key.to_string() }
    }
}

impl<'a> ExplainedService<'a> {
    fn of(service: &'a Defended) -> Self {
        let trigger = |Described { name, unit, derived }: Described| ExplainedTrigger {
            name,
            value: derived.value,
            unit,
            sources: service.basis().sources(&derived),
            derived_from: service.basis().describe(&derived),
        };
        Self {
            port: service.endpoint.port,
            address: service.endpoint.address.to_string(),
            mode: service.mode().name(),
            mode_from: From::of(&service.in_force(Setting::Mode)),
            half_open: service.half_open,
            averted: service.averted,
            level: service.level.name(),
            trigger: service.trigger.name(),
            unprotectable: service.unprotectable.as_deref(),
            inputs: service.inputs,
            triggers: service.triggers().map(trigger).collect(),
            thresholds: Setting::thresholds().map(|threshold| explained(service, threshold)).collect(),
        }
    }
}

fn explained(service: &Defended, threshold: Setting) -> ExplainedThreshold<'_> {
    let found = service.in_force(threshold);
    let value = match found.value {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    };
    ExplainedThreshold {
        name: threshold.name(),
        value,
        unit: threshold.unit().map_or("", Unit::name),
        from: From::of(&found),
    }
}

/// `explain --json`.
pub fn json(services: &[Defended]) -> Result<String> {
    let explained =
        Explained { version: VERSION, services: services.iter().map(ExplainedService::of).collect() };
    serde_json::to_string_pretty(&explained).context("cannot write JSON")
}

#[cfg(test)]
mod tests {
    use defender_common::abi;
    use serde_json::Value as Json;

    use super::*;

    fn example() -> Defended {
        let mut settings = Settings::default();
        let mut file = Settings::default();
        file.set("443.critical".parse().expect("a key"), "80%").expect("a share");
        settings.file = Some(("/etc/defender.toml".into(), file.set));
        settings.set("start".parse().expect("a key"), "30%").expect("a share");
        Defended {
            id: 1,
            endpoint: Endpoint {
                port: 443,
                address: "192.0.2.1".parse().expect("an address"),
                families: abi::SERVICE_FAMILY_V4,
            },
            settings,
            inputs: TriggerInputs {
                backlog: 4096,
                listeners: 1,
                cpus: 4,
                half_open_p99: Some(400),
                syn_rate_p99: None,
                link_replies: Some(1_488_095),
            },
            half_open: 7,
            averted: 285,
            level: Level::Pass,
            trigger: Trigger::Nothing,
            unprotectable: None,
        }
    }

    #[test]
    fn each_line_says_how_it_came_about() {
        let text = text(&[example()], usize::MAX);
        for words in [
            "192.0.2.1:443: mode auto (default); 7 half-open, 285 averted, backlog 4096\n",
            "level pass: SYNs pass, because nothing has happened yet\n",
            "half_open_factor 4 (default) times the baseline of 400 half-open connections",
            "critical 80% (file /etc/defender.toml) of the backlog of 4096",
            "rate_floor 1000 (default); the baseline is not known yet",
            "not set: the baseline is not known yet",
            "half of the 1488095 SYN-ACKs per second",
            "set: start",
            "file /etc/defender.toml: 443.critical",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn limits_that_there_are_not_have_no_unit() {
        let mut service = example();
        service.inputs.link_replies = None;
        let text = text(&[service], usize::MAX);
        let cells = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).expect(name);
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(cells("flood")[1..3], ["not set", "-"]);
        assert_eq!(cells("replies")[1..3], ["no limit", "-"]);
        assert_eq!(cells("rate ")[2], "SYNs per second");
        assert!(!text.contains("0: not set"), "{text}");
    }

    #[test]
    fn explanations_fit_80_columns() {
        let mut service = example();
        service.endpoint.address = "2001:db8:1111:2222:3333:4444:5555:6666".parse().expect("an address");
        service.inputs.half_open_p99 = Some(54_321);
        let text = text(&[service], 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("(file"), "{text}");
    }

    #[test]
    fn unprotectable_services_come_first() {
        let service = Defended { unprotectable: Some("it is MPTCP".into()), ..example() };
        let text = text(std::slice::from_ref(&service), usize::MAX);
        assert!(text.lines().nth(1).is_some_and(|line| line == "unprotectable: it is MPTCP"), "{text}");
        let json: Json = serde_json::from_str(&json(&[service]).expect("JSON")).expect("JSON");
        assert_eq!(json["services"][0]["unprotectable"], "it is MPTCP");
    }

    #[test]
    fn other_modes_say_which_triggers_count() {
        let mut service = example();
        let in_mode = |service: &mut Defended, mode| {
            service.settings.set("mode".parse().expect("a key"), mode).expect("a mode");
            text(std::slice::from_ref(service), usize::MAX)
        };
        let always = in_mode(&mut service, "always");
        assert!(always.contains("every SYN is challenged; the only trigger is replies"), "{always}");
        assert!(in_mode(&mut service, "monitor").contains("in mode monitor SYNs pass"));
        (service.level, service.trigger) = (Level::Limit, Trigger::Replies);
        let limited = in_mode(&mut service, "always");
        assert!(
            limited.contains("level limit: SYNs are challenged as far as the reply limit goes"),
            "{limited}"
        );
    }

    #[test]
    fn the_json_has_its_shape() {
        let json: Json = serde_json::from_str(&json(&[example()]).expect("JSON")).expect("JSON");
        assert_eq!(json["version"], 1);
        let service = &json["services"][0];
        assert_eq!((&service["level"], &service["half_open"]), (&"pass".into(), &7.into()));
        assert_eq!(service["averted"], 285);
        assert_eq!(service["inputs"]["backlog"], 4096);
        let start = &service["triggers"][0];
        assert_eq!((&start["name"], &start["value"]), (&"start".into(), &1600.into()));
        assert_eq!(start["sources"], serde_json::json!(["default", "learnt"]));
        let critical = &service["thresholds"][1];
        assert_eq!(
            critical["from"],
            serde_json::json!({"source": "file", "file": "/etc/defender.toml", "key": "443.critical"})
        );
        assert_eq!(service["thresholds"][8]["value"], Json::Null);
    }
}
