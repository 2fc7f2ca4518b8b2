//! The events for a service whose protection is lost, or has come back. Pure.

use defender_common::mitigation::Level;

use crate::model::{
    endpoint::Endpoint,
    event::{self, EventKind, Observation, Record, Transition},
    mode::Mode,
    timestamp,
};

/// The version of records.
const VERSION: u32 = 1;

/// A service that cannot be protected, and why; none: it can again. `wall` is in milliseconds since the epoch.
pub fn record(endpoint: &Endpoint, mode: Mode, reason: Option<&str>, wall: u64) -> Record {
    let address = endpoint.address.to_string();
    let service = event::service(&address, endpoint.port);
    let (event, words, trigger) = match reason {
        Some(reason) => {
            (Transition::ProtectionLost, format!("{service} cannot be protected: {reason}"), "unprotectable")
        }
        None => (Transition::ProtectionRegained, format!("{service} can be protected again"), "protectable"),
    };
    Record {
        version: VERSION,
        time: timestamp::rfc3339(wall),
        seconds: wall as f64 / 1000.0,
        event,
        port: endpoint.port,
        address,
        mode,
        dry_run: mode == Mode::Monitor,
        level: Level::Pass.name().to_owned(),
        from: Level::Pass.name().to_owned(),
        trigger: trigger.to_owned(),
        kind: EventKind::Protection,
        words,
        evidence: Observation::default(),
        summary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losing_and_regaining_protection_is_told_with_the_reason() {
        let endpoint = Endpoint { port: 443, address: "192.0.2.1".parse().expect("an address"), families: 1 };
        let lost = record(&endpoint, Mode::Auto, Some("it is MPTCP"), 1_769_903_999_123);
        assert_eq!(lost.words, "port 443 (192.0.2.1) cannot be protected: it is MPTCP");
        let line = lost.json().expect("JSON");
        assert!(line.contains(r#""event":"protection_lost""#), "{line}");
        assert!(line.contains(r#""kind":"protection","#), "{line}");
        let regained = record(&endpoint, Mode::Auto, None, 1_769_903_999_123);
        assert_eq!(regained.words, "port 443 (192.0.2.1) can be protected again");
        assert_eq!(serde_json::from_str::<Record>(&regained.json().expect("JSON")).expect("read"), regained);
    }
}
