//! The documentation says what the code does: names and tables in README.md and ARCHITECTURE.md against the source.

use std::{fs, path::Path, process::Command};

use defender::control::thresholds::Threshold;
use defender_common::{
    abi::{Handoff, map},
    profile::{self, PROFILES},
    verdict::Reason,
    wire::options::NO_WINDOW_SCALE,
};

const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

fn has_row(text: &str, row: &str) -> bool {
    text.lines().any(|line| line == row)
}

#[test]
fn every_reason_has_its_row_and_no_row_is_left_over() {
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.describe());
        assert!(has_row(README, &row), "README.md lacks: {row}");
    }
    let is_reason = |line: &&str| {
        ["pass.", "drop.", "tx."].iter().any(|verdict| line.starts_with(&format!("| `{verdict}")))
    };
    assert_eq!(README.lines().filter(is_reason).count(), Reason::COUNT);
}

#[test]
fn every_hand_off_counter_is_explained() {
    for name in Handoff::ALL.map(Handoff::name) {
        assert!(README.contains(&format!("| `{name}` |")), "README.md lacks {name}");
    }
}

#[test]
fn every_profile_has_its_row() {
    // Larger than any size in the tables, and a scale that none of them names.
    const INTERFACE: u16 = 9000;
    const HOST: u8 = 13;
    let mss = |mss: u16| if mss == INTERFACE { "interface".to_owned() } else { mss.to_string() };
    for index in 0..PROFILES as u8 {
        let [v4, v6] = [0, 1].map(|family| profile::get(family, index, INTERFACE, HOST));
        assert_eq!((v4.window_scale, v4.sack), (v6.window_scale, v6.sack));
        let scale = match v4.window_scale {
            HOST => "host".to_owned(),
            NO_WINDOW_SCALE => "none".to_owned(),
            scale => scale.to_string(),
        };
        let sack = if v4.sack { "yes" } else { "no" };
        let row = format!("| {index} | {} | {} | {scale} | {sack} |", mss(v4.mss), mss(v6.mss));
        assert!(has_row(README, &row), "README.md lacks: {row}");
    }
    for (family, name) in ["IPv4", "IPv6"].iter().enumerate() {
        let values: Vec<_> = (0..7).map(|index| profile::mss(family, index, INTERFACE).to_string()).collect();
        let row = format!("| {name} | {}, the interface's |", values.join(", "));
        assert!(has_row(README, &row), "README.md lacks: {row}");
    }
}

#[test]
fn every_threshold_has_its_row() {
    for threshold in Threshold::ALL {
        let default = threshold.default().map_or_else(|| "-".to_owned(), |value| threshold.show(value));
        let (name, allowed, meaning) = (threshold.name(), threshold.allowed(), threshold.meaning());
        let row = format!("| `{name}` | {allowed} | {default} | {meaning} |");
        assert!(has_row(README, &row), "README.md lacks: {row}");
    }
}

#[test]
fn every_command_is_there() {
    let help = Command::new(env!("CARGO_BIN_EXE_defender")).arg("--help").output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> =
        commands.map_while(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(commands.len() >= 8, "{help}");
    for command in commands {
        assert!(README.contains(&format!("\ndefender {command}")), "README.md lacks {command}");
    }
}

#[test]
fn every_map_is_explained() {
    for name in map::ALL {
        assert!(ARCHITECTURE.contains(&format!("| `{name}` |")), "ARCHITECTURE.md lacks {name}");
    }
}

/// An invariant of ARCHITECTURE.md.
#[test]
fn aya_is_used_in_dataplane_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let users = files(&source).into_iter().filter(|path| {
        let text = fs::read_to_string(path).expect("readable");
        text.lines().any(|line| ["use aya", "aya::", "aya_obj::"].iter().any(|word| line.contains(word)))
    });
    let elsewhere: Vec<_> = users.filter(|path| !path.starts_with(source.join("dataplane"))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// An invariant of ARCHITECTURE.md: every module has its line in the code map.
#[test]
fn the_code_map_is_complete() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for package in ["defender-common", "defender-ebpf", "defender-maps", "defender"] {
        let source = workspace.join(package).join("src");
        for path in files(&source) {
            let name = path.strip_prefix(workspace).expect("below it").display().to_string();
            let short = path.strip_prefix(&source).expect("below it").display().to_string();
            assert!(ARCHITECTURE.contains(&format!("`{short}`")), "ARCHITECTURE.md lacks {name}");
        }
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
