//! What monitors defender names metrics that there are, and the alert rules do what they should.

use std::{collections::BTreeSet, fs, process::Command};

use defender::report::metrics::families::{FAMILIES, Family};
use defender_docs::workspace;
use serde_json::Value;

const DASHBOARD: &str = "packaging/grafana/defender.json";
const RULES: &str = "packaging/prometheus/defender.rules.yml";
const RULE_TESTS: &str = "packaging/prometheus/defender.rules.test.yml";

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).expect(path)
}

/// Every word that can be the name of a metric of ours.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter: char| !is_letter(letter));
    words.filter(|word| word.starts_with("defender_") || word.starts_with("process_")).collect()
}

#[test]
fn what_monitors_names_metrics_that_there_are() {
    let known: BTreeSet<_> = FAMILIES.iter().map(Family::full_name).collect();
    for (path, least) in [(DASHBOARD, 14), (RULES, 7), (RULE_TESTS, 7), ("docs/how-to/monitor.md", 7)] {
        let text = read(path);
        let named = metrics(&text);
        assert!(named.len() >= least, "{path} names {named:?} only");
        let unknown: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{path} names what there is not: {unknown:?}");
    }
}

/// The panels that people look for are there, and legends show labels that their expressions keep.
#[test]
fn the_dashboard_is_whole() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let titles: Vec<_> = panels.iter().filter_map(|panel| panel["title"].as_str()).collect();
    for title in [
        "SYN rate",
        "Challenged",
        "Half open against limits",
        "Clients let in",
        "Verdicts",
        "CPU",
        "NIC drops",
    ] {
        assert!(titles.contains(&title), "{title} is missing: {titles:?}");
    }
    let known: BTreeSet<_> =
        FAMILIES.iter().flat_map(|family| family.labels).copied().chain(["instance", "job"]).collect();
    let targets: Vec<_> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")).collect();
    assert!(targets.len() >= panels.len());
    for target in targets {
        let legend = target["legendFormat"].as_str().expect("a legend");
        let labels = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        for label in labels {
            assert!(known.contains(label), "{target}");
            assert!(target["expr"].as_str().is_some_and(|text| text.contains(label)), "{target}");
        }
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    for arguments in [["check", "rules", RULES], ["test", "rules", RULE_TESTS]] {
        let promtool = Command::new("promtool").args(arguments).current_dir(workspace()).output();
        let output = promtool.expect("promtool, of the package prometheus");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
    let rules = read(RULES);
    let tests = read(RULE_TESTS);
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in alerts {
        let fires = tests
            .split("eval_time")
            .any(|test| test.contains(&format!("alertname: {alert}\n")) && test.contains("exp_labels"));
        assert!(fires, "no test makes {alert} fire");
    }
}
