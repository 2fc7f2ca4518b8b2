//! Faults of the defence itself. `status` prints them first, and then exits with status 1. Pure.
//!
//! Attacks are not faults. Nor are properties of the host, such as services that cannot be protected. Both
//! are reported elsewhere.

use std::time::Duration;

/// A controller that has not checked everything for this long is stuck: it does so every second.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// The controller's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// This process is in control.
    By {
        /// Its number.
        pid: u32,
        /// Time since it last checked everything, if known.
        looked: Option<Duration>,
        /// It is stopped, for example by SIGSTOP.
        stopped: bool,
    },
    /// This process was in control, and exited without a report.
    Died(u32),
    /// No controller, on purpose: `attach`, `run --keep`.
    NoController,
}

impl Control {
    /// The process in control.
    pub const fn pid(self) -> Option<u32> {
        match self {
            Self::By { pid, .. } => Some(pid),
            Self::Died(_) | Self::NoController => None,
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::By { stopped: true, .. } => "stopped",
            Self::By { looked: Some(age), .. } if age >= SILENCE => "stuck",
            Self::By { .. } => "alive",
            Self::Died(_) => "died",
            Self::NoController => "none",
        }
    }

    pub(super) fn fault(self) -> Option<String> {
        match self {
            Self::By { pid, looked, stopped: true } => {
                let since = looked.map(|age| format!(" for {} s", age.as_secs())).unwrap_or_default();
                Some(format!(
                    "the controller has not answered{since}: process {pid} is stopped (`kill -CONT {pid}`)"
                ))
            }
            Self::By { pid, looked: Some(age), .. } if age >= SILENCE => Some(format!(
                "the controller has not answered for {} s: process {pid} is stuck, or waits for another one \
                 (`defender run --replace` takes over)",
                age.as_secs()
            )),
            Self::Died(pid) => Some(format!(
                "the controller has ended without detaching: process {pid} is gone (`defender run` takes over)"
            )),
            Self::By { .. } | Self::NoController => None,
        }
    }
}

/// Why an interface that should be defended is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No interface of that name exists.
    Gone,
    /// A program is not attached to it.
    Detached,
    /// It is down.
    Down,
    /// It cannot be defended, for this reason.
    Hindered(String),
}

impl Fault {
    /// Its name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Detached => "detached",
            Self::Down => "down",
            Self::Hindered(_) => "hindered",
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Gone => "is gone".to_owned(),
            Self::Detached => "is not attached as a whole (`defender run` attaches it)".to_owned(),
            Self::Down => "is down".to_owned(),
            Self::Hindered(why) => format!("is not defended: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::snapshot::{Snapshot, tests::example};

    #[test]
    fn all_is_well_in_an_attack_and_with_what_cannot_be_protected() {
        assert_eq!(example().faults(), Vec::<String>::new());
    }

    #[test]
    fn a_controller_that_does_not_answer_is_a_fault() {
        let by = |looked: Option<u64>, stopped| Control::By {
            pid: 42,
            looked: looked.map(Duration::from_secs),
            stopped,
        };
        for (control, name, reported) in [
            (by(Some(1), false), "alive", None),
            (by(None, false), "alive", None),
            (by(Some(9), false), "alive", None),
            (by(Some(30), false), "stuck", Some("has not answered for 30 s: process 42 is stuck")),
            (by(Some(30), true), "stopped", Some("has not answered for 30 s: process 42 is stopped")),
            (by(None, true), "stopped", Some("has not answered: process 42 is stopped")),
            (Control::Died(42), "died", Some("process 42 is gone")),
            (Control::NoController, "none", None),
        ] {
            assert_eq!(control.name(), name);
            let faults = Snapshot { control, ..example() }.faults().concat();
            assert!(
                reported.map_or(faults.is_empty(), |reported| faults.contains(reported)),
                "{control:?}: {faults}"
            );
        }
    }

    #[test]
    fn an_interface_that_is_not_defended_is_a_fault() {
        for (fault, reported) in [
            (Fault::Gone, "eth0 is gone"),
            (Fault::Detached, "eth0 is not attached"),
            (Fault::Down, "eth0 is down"),
            (Fault::Hindered("it is a port".into()), "eth0 is not defended: it is a port"),
        ] {
            let mut snapshot = example();
            snapshot.interfaces[0].fault = Some(fault);
            assert!(snapshot.faults().concat().starts_with(reported));
        }
        assert_eq!(Snapshot { suspended: true, ..example() }.faults().len(), 1);
    }
}
