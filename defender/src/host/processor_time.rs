//! How much time processors have spent: this process, and all CPUs in soft interrupts, where XDP runs.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};

/// Of this process, all threads.
pub fn of_process() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("cannot read the processor time")?.into())
}

/// Of all CPUs in soft interrupts, whoever caused them.
pub fn of_soft_interrupts() -> Result<Duration> {
    const FILE: &str = "/proc/stat";
    let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    let ticks = soft_interrupts(&text).with_context(|| format!("cannot read soft interrupts in {FILE}"))?;
    let a_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
}

/// The seventh number of the line of all CPUs (Documentation/filesystems/proc.rst).
fn soft_interrupts(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    line.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_interrupts_are_those_of_all_cpus() {
        let stat = "cpu  10 20 30 40 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 5\n";
        assert_eq!(soft_interrupts(stat), Some(70));
        assert_eq!(soft_interrupts("cpu0 1 2 3 4 5 6 7 8\n"), None);
    }

    #[test]
    fn time_passes() {
        let before = of_process().expect("a clock");
        while of_process().expect("a clock") == before {}
        assert!(of_soft_interrupts().expect("a clock") < Duration::from_secs(1 << 40));
    }
}
