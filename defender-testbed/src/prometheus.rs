//! A real Prometheus inside a namespace, which scrapes defender there.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{cleanup::Guard, http, netns::Namespace};

/// Where it listens. The namespace has it to itself.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// Deadline for its first answer, and for its end. The machine may be slow and busy.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A Prometheus that runs; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Prometheus<'a> {
    namespace: &'a Namespace,
    _end: Guard,
}

/// A series: its labels, and its values by the second.
#[derive(Clone, Debug)]
pub struct Series {
    /// The labels, with the name as `__name__`.
    pub labels: Value,
    /// When, in seconds since 1970, and what.
    pub points: Vec<(f64, f64)>,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes `target` once a second as the job `defender`, and evaluates the rules of a file as often.
    pub fn start(namespace: &'a Namespace, target: SocketAddr, rules: &Path) -> Result<Self> {
        let directory = scratch();
        fs::create_dir_all(&directory)?;
        let rules = rules.canonicalize().with_context(|| format!("there is no {}", rules.display()))?;
        let configuration = directory.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs: [{{job_name: defender, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        fs::write(&configuration, text)?;
        let mut command = namespace.command("prometheus")?;
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .args(["--log.level=error", "--storage.tsdb.retention.time=1h"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = Arc::new(Mutex::new(child.context("cannot start prometheus; is it installed?")?));
        let end = {
            let child = Arc::clone(&child);
            Guard::new(move || {
                end(&child);
                let _ = fs::remove_dir_all(&directory);
            })
        };
        let prometheus = Self { namespace, _end: end };
        prometheus.wait_ready(&child)?;
        Ok(prometheus)
    }

    fn wait_ready(&self, child: &Mutex<Child>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !http::get(self.namespace, ADDRESS, "/-/ready", "").is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()? {
                bail!("prometheus has ended: {status}");
            }
            ensure!(Instant::now() < deadline, "prometheus is not ready");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// What an expression gives now, one value for each series.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>> {
        self.ask(&format!("/api/v1/query?query={}", encoded(expression)))
    }

    /// The sum of what an expression gives now; none: nothing.
    pub fn value(&self, expression: &str) -> Result<Option<f64>> {
        let series = self.query(expression)?;
        let values = series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
        Ok(values.reduce(|sum, value| sum + value))
    }

    /// What an expression gave between two moments, once a second.
    pub fn range(&self, expression: &str, from: f64, to: f64) -> Result<Vec<Series>> {
        self.ask(&format!("/api/v1/query_range?query={}&start={from}&end={to}&step=1", encoded(expression)))
    }

    fn ask(&self, path: &str) -> Result<Vec<Series>> {
        let answer = http::get(self.namespace, ADDRESS, path, "")?;
        let json: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
        ensure!(json["status"] == "success", "{}", answer.body);
        let result = json["data"]["result"].as_array().context("no series")?;
        result.iter().map(series).collect()
    }
}

fn series(json: &Value) -> Result<Series> {
    let point = |point: &Value| {
        let value = point[1].as_str().and_then(|value| value.parse().ok());
        Some((point[0].as_f64()?, value?))
    };
    let points: Option<Vec<_>> = match json["values"].as_array() {
        Some(values) => values.iter().map(point).collect(),
        None => point(&json["value"]).map(|point| vec![point]),
    };
    Ok(Series { labels: json["metric"].clone(), points: points.with_context(|| json.to_string())? })
}

/// As within an address.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("defender-prometheus-{}-{number}", process::id()))
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    let deadline = Instant::now() + PATIENCE;
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    }
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_encoded() {
        assert_eq!(encoded("a{b=\"c\"} > 1"), "a%7Bb%3D%22c%22%7D%20%3E%201");
    }
}
