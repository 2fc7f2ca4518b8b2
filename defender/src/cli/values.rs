//! Values of the command line, as people type them.

use crate::{
    host::service_names,
    model::settings::{self, Key},
    problem::Problem,
};

/// A port, by number or by its service's name.
pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    let named = || service_names::port(text).filter(|port| *port != 0);
    settings::parse_port(text).or_else(named).ok_or_else(|| {
        let missing = if service_names::exist() { "" } else { ", and there is none here" };
        format!("unknown port: expected 1-65535 or a service name of {}{missing}", service_names::DATABASE)
    })
}

/// The key of a setting; the port in it may be a service's name, as in `https.mode`.
pub(super) fn parse_key(text: &str) -> Result<Key, Problem> {
    let by_number = text.split_once('.').and_then(|(port, setting)| {
        let port = service_names::port(port)?;
        format!("{port}.{setting}").parse().ok()
    });
    by_number.map_or_else(|| text.parse(), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_or_names() {
        assert_eq!(parse_port("443"), Ok(443));
        if service_names::exist() {
            assert_eq!(parse_port("ssh"), Ok(22));
            assert_eq!(parse_key("ssh.mode").expect("a key"), "22.mode".parse().expect("a key"));
        }
        for wrong in ["", "0", "65536", "-1", "no-such-service"] {
            let error = parse_port(wrong).expect_err(wrong);
            assert!(error.contains("1-65535 or a service name"), "{error}");
        }
        assert!(parse_key("no-such-service.mode").is_err());
        assert!(parse_key("ssh.modes").is_err());
        assert_eq!(parse_key("mode").expect("a key"), "mode".parse().expect("a key"));
    }
}
