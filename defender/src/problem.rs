//! Failures that callers tell apart, and the exit status each ends with.

use std::io;

use thiserror::Error;

/// A failure whose kind matters to the caller. The text is one line: what, why, and what to do.
#[derive(Debug, Error)]
pub enum Problem {
    /// The command line or a setting makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A configuration file, or a file of prefixes, cannot be read or makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// The caller may not do this.
    #[error("{0}")]
    Privilege(String),
    /// The kernel lacks something that is needed.
    #[error("{0}")]
    Unsupported(String),
    /// The kernel refuses one of the programs.
    #[error("{found}: {remedy}")]
    Refused {
        /// Which kernel refuses which program, and why.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// Someone else holds what is needed.
    #[error("{0}")]
    InUse(String),
    /// Others could change what is kept there.
    #[error("{0}")]
    Unsafe(String),
    /// Nothing is attached.
    #[error("nothing is attached below {0}: start `defender run --iface IF`, or name another --pin-root")]
    NothingAttached(String),
}

/// The command failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const WRONG_USAGE: u8 = 2;
/// The command needs more privilege.
pub const NEEDS_PRIVILEGE: u8 = 3;

/// The exit status for `error`.
pub fn status_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        match cause.downcast_ref::<Problem>() {
            Some(Problem::Usage(_)) => return WRONG_USAGE,
            Some(Problem::Privilege(_)) => return NEEDS_PRIVILEGE,
            Some(_) => return FAILED,
            None => {}
        }
        if cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        {
            return NEEDS_PRIVILEGE;
        }
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_kind_of_failure_decides_the_status() {
        let wrapped = |problem: Problem| anyhow::Error::from(problem).context("while doing something");
        assert_eq!(status_of(&wrapped(Problem::Usage("x".into()))), WRONG_USAGE);
        assert_eq!(status_of(&wrapped(Problem::Privilege("x".into()))), NEEDS_PRIVILEGE);
        assert_eq!(status_of(&wrapped(Problem::InUse("x".into()))), FAILED);
        assert_eq!(status_of(&anyhow::anyhow!("x")), FAILED);
        let denied = Err::<(), _>(io::Error::from_raw_os_error(libc::EPERM)).context("cannot");
        assert_eq!(status_of(&denied.expect_err("an error")), NEEDS_PRIVILEGE);
    }
}
