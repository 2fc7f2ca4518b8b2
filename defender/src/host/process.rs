//! What the kernel reports about a process.

use std::fs;

use nix::{sys::signal::kill, unistd::Pid};

/// Whether a process is stopped by SIGSTOP or a debugger.
pub fn is_stopped(pid: u32) -> bool {
    matches!(state_of(pid), Some('T' | 't'))
}

/// Whether a process exists and runs a program. A zombie does not, where it can be seen: `/proc` may hide processes that have
/// more capabilities (hidepid, proc(5)).
pub fn is_alive(pid: u32) -> bool {
    state_of(pid).map_or_else(|| is_there(pid), |state| !matches!(state, 'Z' | 'X'))
}

fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(nix::errno::Errno::ESRCH))
}

fn state_of(pid: u32) -> Option<char> {
    state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The state in the text of `/proc/PID/stat`. It follows the name, which may contain anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_behind_the_name() {
        assert_eq!(state("42 (defender) S 1 42"), Some('S'));
        assert_eq!(state("42 (a) T (b) t 1 42"), Some('t'));
        assert_eq!(state(""), None);
        assert!(!is_stopped(std::process::id()) && is_alive(std::process::id()));
        assert!(!is_alive(0));
    }
}
