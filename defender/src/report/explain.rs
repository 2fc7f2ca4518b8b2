//! `explain`: when a service is defended, and why then, in words and as JSON. Pure.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use defender_common::ladder::{Because, Step};
use serde::Serialize;

use crate::{
    control::{
        lines::{Basis, By, Drawing, LEAST_UP, Line},
        services::Endpoint,
        settings::{InForce, Key, Mode, Setting, Settings, Source, Value},
        thresholds::Threshold,
    },
    report::{json, table},
};

/// What there is to explain of a service.
#[derive(Clone, Debug)]
pub struct Defended {
    /// What clients connect to.
    pub endpoint: Endpoint,
    /// What was set.
    pub settings: Settings,
    /// What its lines are drawn from.
    pub basis: Basis,
    /// How many of its connections are half open, or would be if their SYNs had passed.
    pub half_open: u32,
    /// The step it is on.
    pub step: Step,
    /// Why it is.
    pub because: Because,
}

impl Defended {
    fn in_force(&self, setting: Setting) -> InForce<'_> {
        self.settings.in_force(Key::of(self.endpoint.port, setting))
    }

    fn mode(&self) -> Mode {
        self.settings.mode_of(self.endpoint.port)
    }

    fn lines(&self) -> [(&'static str, Line); 8] {
        Drawing::new(&self.settings, self.endpoint.port, &self.basis).all()
    }

    /// The number of a threshold and where it comes from.
    fn number(&self, threshold: Threshold) -> String {
        let found = self.in_force(Setting::Threshold(threshold));
        format!("{} ({})", shown(&found), found.source)
    }

    /// How a line came about, in words.
    fn how(&self, line: &str, by: By) -> String {
        let Basis { backlog, listeners, cpus, half_open_p99, syn_rate_p99, link_replies } = self.basis;
        match by {
            By::Share(threshold) => {
                format!("{} {} of the backlog of {backlog}", threshold.name(), self.number(threshold))
            }
            By::Usual(Threshold::RateFactor) => format!(
                "rate_factor {} times the {} SYNs a second usual in calm",
                self.number(Threshold::RateFactor),
                syn_rate_p99.unwrap_or(0)
            ),
            By::Usual(threshold) => format!(
                "{} {} times the {} half-open connections usual in calm",
                threshold.name(),
                self.number(threshold),
                half_open_p99.unwrap_or(0)
            ),
            By::Value(Threshold::RateFloor) if syn_rate_p99.is_none() => format!(
                "rate_floor {}; what is usual in calm is not known yet",
                self.number(Threshold::RateFloor)
            ),
            By::Value(threshold) => format!("{} {}", threshold.name(), self.number(threshold)),
            By::Cpus => format!(
                "the backlog of {backlog} less {cpus} CPUs: as many SYNs may pass at once, and must not fill it"
            ),
            By::Spread => format!(
                "chance spreads connections over the {listeners} listeners that share the backlog of {backlog}: none may overflow"
            ),
            By::Link => format!(
                "half of the {} SYN-ACKs a second that the slowest link carries",
                link_replies.unwrap_or(0)
            ),
            By::NoLink => "no limit: the speed of no link is known".to_owned(),
            By::UsualRate => format!("the {} SYNs a second usual in calm", syn_rate_p99.unwrap_or(0)),
            By::Unknown => "none: what is usual in calm is not known yet".to_owned(),
            By::Danger => "no higher than danger".to_owned(),
            By::Up => "one less than up".to_owned(),
            By::Least => format!("{line} is {} at least", if line == "up" { LEAST_UP } else { 1 }),
        }
    }

    /// What a line was computed from: `set`, `file`, `default`, `learnt`, `backlog`, `link`.
    fn sources(&self, by: By) -> Vec<&'static str> {
        let of = |threshold| self.in_force(Setting::Threshold(threshold)).source.name();
        match by {
            By::Share(threshold) => vec![of(threshold), "backlog"],
            By::Usual(threshold) => vec![of(threshold), "learnt"],
            By::Value(threshold) => vec![of(threshold)],
            By::Cpus | By::Spread | By::Danger | By::Up | By::Least => vec!["backlog"],
            By::UsualRate | By::Unknown => vec!["learnt"],
            By::Link | By::NoLink => vec![of(Threshold::ReplyLimit), "link"],
        }
    }
}

fn shown(found: &InForce<'_>) -> String {
    found.value.map_or_else(|| "default".to_owned(), |value| found.key.setting.show(value))
}

/// For people.
pub fn text(services: &[Defended]) -> String {
    services.iter().map(service).collect::<Vec<_>>().join("\n")
}

fn service(service: &Defended) -> String {
    let mut text = headline(service);
    let _ = write!(text, "\n{}\n{}", lines(service), thresholds(service));
    text
}

fn headline(service: &Defended) -> String {
    let mode = service.in_force(Setting::Mode);
    let present = match service.mode() {
        Mode::Auto => {
            let Defended { step, because, .. } = service;
            format!("step {}: {}, because {}", step.name(), step.describe(), because.describe())
        }
        mode => format!("lines count in mode auto only; in mode {mode} {}", done_in(mode)),
    };
    format!(
        "{}: mode {} ({}); {} half open, backlog {}\n{present}\n",
        service.endpoint,
        shown(&mode),
        mode.source,
        service.half_open,
        service.basis.backlog,
    )
}

const fn done_in(mode: Mode) -> &'static str {
    match mode {
        Mode::Always => "every SYN is challenged",
        Mode::Auto | Mode::Monitor | Mode::Off => "SYNs pass",
    }
}

fn lines(service: &Defended) -> String {
    let row = |(name, line): (&'static str, Line)| {
        vec![name.to_owned(), line.number.to_string(), unit(name).to_owned(), service.how(name, line.by)]
    };
    let rows: Vec<Vec<String>> = service.lines().into_iter().map(row).collect();
    table::render(&["line", "at", "of", "how it came about"], &rows)
}

/// What a line is compared with.
fn unit(line: &str) -> &'static str {
    match line {
        "up" => "connections half open for a second",
        "danger" | "down" => "connections half open",
        "rate" => "SYNs a second",
        "flood" => "SYNs a second (0: no such line)",
        "strays" => "packets a second of no connection",
        "replies" => "SYN-ACKs a second (0: no limit)",
        _ => "milliseconds",
    }
}

fn thresholds(service: &Defended) -> String {
    let row = |threshold: Threshold| {
        let found = service.in_force(Setting::Threshold(threshold));
        let key = match found.source {
            Source::Default => found.source.to_string(),
            source => format!("{source}: {}", found.key),
        };
        vec![threshold.name().to_owned(), shown(&found), key, threshold.meaning().to_owned()]
    };
    let rows: Vec<Vec<String>> = Threshold::ALL.into_iter().map(row).collect();
    table::render(&["threshold", "value", "from", "meaning"], &rows)
}

#[derive(Serialize)]
struct Explained<'a> {
    version: u32,
    services: Vec<ExplainedService<'a>>,
}

#[derive(Serialize)]
struct ExplainedService<'a> {
    port: u16,
    address: String,
    mode: &'static str,
    mode_from: From<'a>,
    half_open: u32,
    step: &'static str,
    because: &'static str,
    basis: Basis,
    lines: Vec<ExplainedLine>,
    thresholds: Vec<ExplainedThreshold<'a>>,
}

/// Where a value comes from.
#[derive(Serialize)]
struct From<'a> {
    source: &'static str,
    file: Option<&'a str>,
    key: String,
}

#[derive(Serialize)]
struct ExplainedLine {
    name: &'static str,
    number: u32,
    sources: Vec<&'static str>,
    how: String,
}

#[derive(Serialize)]
struct ExplainedThreshold<'a> {
    name: &'static str,
    value: Option<u32>,
    unit: &'static str,
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
        let line = |(name, line): (&'static str, Line)| ExplainedLine {
            name,
            number: line.number,
            sources: service.sources(line.by),
            how: service.how(name, line.by),
        };
        Self {
            port: service.endpoint.port,
            address: service.endpoint.address.to_string(),
            mode: service.mode().name(),
            mode_from: From::of(&service.in_force(Setting::Mode)),
            half_open: service.half_open,
            step: service.step.name(),
            because: service.because.name(),
            basis: service.basis,
            lines: service.lines().into_iter().map(line).collect(),
            thresholds: Threshold::ALL.into_iter().map(|threshold| explained(service, threshold)).collect(),
        }
    }
}

fn explained(service: &Defended, threshold: Threshold) -> ExplainedThreshold<'_> {
    let found = service.in_force(Setting::Threshold(threshold));
    let value = match found.value {
        Some(Value::Number(number)) => Some(number),
        _ => None,
    };
    ExplainedThreshold {
        name: threshold.name(),
        value,
        unit: threshold.unit().name(),
        from: From::of(&found),
    }
}

/// `explain --json`.
pub fn json(services: &[Defended]) -> Result<String> {
    let explained =
        Explained { version: json::VERSION, services: services.iter().map(ExplainedService::of).collect() };
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
        file.set("443.danger".parse().expect("a key"), "80%").expect("a share");
        settings.file = Some(("/etc/defender.toml".into(), file.set));
        settings.set("up".parse().expect("a key"), "30%").expect("a share");
        Defended {
            endpoint: Endpoint {
                port: 443,
                address: "192.0.2.1".parse().expect("an address"),
                families: abi::SERVICE_FAMILY_V4,
            },
            settings,
            basis: Basis {
                backlog: 4096,
                listeners: 1,
                cpus: 4,
                half_open_p99: Some(400),
                syn_rate_p99: None,
                link_replies: Some(1_488_095),
            },
            half_open: 7,
            step: Step::Pass,
            because: Because::Nothing,
        }
    }

    #[test]
    fn each_line_says_how_it_came_about() {
        let text = text(&[example()]);
        for words in [
            "192.0.2.1:443: mode auto (default); 7 half open, backlog 4096\n",
            "step pass: SYNs pass, because nothing has happened yet\n",
            "half_open_factor 4 (default) times the 400 half-open connections usual in calm",
            "danger 80% (file /etc/defender.toml) of the backlog of 4096",
            "rate_floor 1000 (default); what is usual in calm is not known yet",
            "none: what is usual in calm is not known yet",
            "half of the 1488095 SYN-ACKs a second",
            "set: up",
            "file /etc/defender.toml: 443.danger",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn other_modes_say_that_lines_do_not_count() {
        let mut service = example();
        service.settings.set("mode".parse().expect("a key"), "always").expect("a mode");
        assert!(text(&[service]).contains("mode always every SYN is challenged"));
    }

    #[test]
    fn the_json_has_its_shape() {
        let json: Json = serde_json::from_str(&json(&[example()]).expect("JSON")).expect("JSON");
        assert_eq!(json["version"], 1);
        let service = &json["services"][0];
        assert_eq!((&service["step"], &service["half_open"]), (&"pass".into(), &7.into()));
        assert_eq!(service["basis"]["backlog"], 4096);
        let up = &service["lines"][0];
        assert_eq!((&up["name"], &up["number"]), (&"up".into(), &1600.into()));
        assert_eq!(up["sources"], serde_json::json!(["default", "learnt"]));
        let danger = &service["thresholds"][1];
        assert_eq!(
            danger["from"],
            serde_json::json!({"source": "file", "file": "/etc/defender.toml", "key": "443.danger"})
        );
        assert_eq!(service["thresholds"][8]["value"], Json::Null);
    }
}
