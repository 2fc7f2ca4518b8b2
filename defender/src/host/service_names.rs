//! Names of TCP ports in the system's database (services(5)).
//!
//! A static program reads `/etc/services` and nothing else. Where that is missing, no port has a name.

use std::{
    ffi::{CStr, CString},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// The database.
pub const DATABASE: &str = "/etc/services";

/// The C library answers in one place for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// The port that has this name, such as `ssh`.
pub fn port(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: both are strings that end with NUL. What was answered before is not in use: TURN is held while it is.
    let entry = unsafe { libc::getservbyname(name.as_ptr(), c"tcp".as_ptr()) };
    // SAFETY: null, or an entry that stays as it is until the next question.
    let entry = unsafe { entry.as_ref() }?;
    Some(u16::from_be(entry.s_port as u16))
}

/// The name of a port, such as `ssh`.
pub fn name(port: u16) -> Option<String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a string that ends with NUL. What was answered before is not in use: TURN is held while it is.
    let entry = unsafe { libc::getservbyport(i32::from(port.to_be()), c"tcp".as_ptr()) };
    // SAFETY: null, or an entry that stays as it is until the next question.
    let entry = unsafe { entry.as_ref() }?;
    // SAFETY: the name of an entry is a string that ends with NUL.
    let name = unsafe { CStr::from_ptr(entry.s_name) };
    name.to_str().ok().map(str::to_owned)
}

/// Whether there is a database to ask.
pub fn exist() -> bool {
    Path::new(DATABASE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_file() {
        let Ok(text) = std::fs::read_to_string(DATABASE) else { return };
        let tcp = text.lines().filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let (name, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
            Some((name, port.parse::<u16>().ok()?))
        });
        for (expected, number) in tcp.take(20) {
            assert_eq!(port(expected), Some(number), "{expected}");
            assert!(name(number).is_some(), "{number}");
        }
        assert_eq!(port("no-such-service"), None);
        assert_eq!(port("nul\0"), None);
        assert_eq!(name(0), None);
    }
}
