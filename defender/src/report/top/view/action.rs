//! What is done to a service's SYNs, and why, in few words.

use defender_common::mitigation::{Level, Trigger};

use crate::{
    model::mode::Mode,
    report::{snapshot::ServiceStatus, top::look::Health},
};

/// What is done, and the trigger's name: `challenge half_open`.
pub(in crate::report::top) fn brief(service: &ServiceStatus) -> String {
    let (what, why) = parts(service);
    match why {
        Some(Why::Trigger(trigger)) => format!("{what} {}", trigger.name()),
        Some(Why::Words(words)) => format!("{what} {words}"),
        None => what,
    }
}

/// What is done, and why, in words: `challenge: connections stay half open`.
pub fn long(service: &ServiceStatus) -> String {
    let (what, why) = parts(service);
    match why {
        Some(Why::Trigger(trigger)) => format!("{what}: {}", trigger.describe()),
        Some(Why::Words("unprotectable")) => {
            format!("{what}: unprotectable: {}", service.unprotectable.as_deref().unwrap_or_default())
        }
        Some(Why::Words(words)) => format!("{what}: {words}"),
        None => what,
    }
}

/// How well that is.
pub(super) fn health(service: &ServiceStatus) -> Health {
    match (&service.unprotectable, service.active, service.level) {
        (Some(_), ..) => Health::Bad,
        (_, true, Level::Limit | Level::KnownSources) => Health::Bad,
        (_, true, _) => Health::Acting,
        (_, _, Level::Pass) => Health::Good,
        // It would act, but does not.
        _ if service.mode == Mode::Monitor => Health::Acting,
        _ if service.mode == Mode::Off => Health::Good,
        _ => Health::Bad,
    }
}

/// Why something is done.
enum Why {
    Trigger(Trigger),
    Words(&'static str),
}

fn parts(service: &ServiceStatus) -> (String, Option<Why>) {
    let level = service.level;
    let trigger = (level != Level::Pass).then_some(Why::Trigger(service.trigger));
    let pass = || Level::Pass.name().to_owned();
    match (service.mode, service.active, &service.unprotectable) {
        (_, _, Some(_)) => (pass(), Some(Why::Words("unprotectable"))),
        (Mode::Off, ..) => (pass(), Some(Why::Words("off"))),
        (_, true, _) => (level.max(Level::Challenge).name().to_owned(), trigger),
        (Mode::Auto, ..) if level == Level::Pass => (pass(), None),
        (Mode::Always | Mode::Auto, ..) => (pass(), Some(Why::Words("suspended"))),
        (Mode::Monitor, ..) if level == Level::Pass => (pass(), None),
        (Mode::Monitor, ..) => (format!("would {}", level.name()), trigger),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::snapshot::tests::example;

    #[test]
    fn what_and_why_depend_on_mode_and_level() {
        let mut service = example().services.remove(0);
        for (mode, active, level, words) in [
            (Mode::Auto, false, Level::Pass, "pass"),
            (Mode::Auto, true, Level::Challenge, "challenge half_open"),
            (Mode::Always, true, Level::Pass, "challenge"),
            (Mode::Always, true, Level::KnownSources, "known_sources half_open"),
            (Mode::Auto, false, Level::Challenge, "pass suspended"),
            (Mode::Monitor, false, Level::Pass, "pass"),
            (Mode::Monitor, false, Level::Limit, "would limit half_open"),
            (Mode::Off, false, Level::Challenge, "pass off"),
        ] {
            (service.mode, service.active, service.level) = (mode, active, level);
            service.trigger = Trigger::HalfOpen;
            assert_eq!(brief(&service), words, "{mode:?} {active} {level:?}");
        }
        assert_eq!(brief(&example().services[1]), "pass unprotectable");
        assert_eq!(long(&example().services[1]), "pass: unprotectable: it is MPTCP");
        (service.mode, service.active, service.level) = (Mode::Auto, true, Level::Challenge);
        assert_eq!(long(&service), "challenge: connections stay half open");
    }
}
