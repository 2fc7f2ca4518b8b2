//! What the verifier has to walk. Its limit is a million instructions a program, and older kernels see more states; ours
//! is defender-testbed/budget.txt.

use std::io::Write as _;

use anyhow::Result;
use defender_common::abi::program;
use defender_testbed::budget;

use super::bed::Bed;

#[test]
fn instructions_stay_within_budget() -> Result<()> {
    let counts = Bed::new()?.verified_instructions()?;
    // Not captured: a test run shows them whether it succeeds or not.
    let mut output = std::io::stderr().lock();
    for (name, count) in &counts {
        let most = budget::verified_instructions(name).unwrap_or_default();
        writeln!(output, "verified instructions of {name}: {count} of at most {most}")?;
    }
    let names: Vec<_> = counts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            program::EGRESS,
            program::FLOWS,
            program::HANDOFF,
            program::SOCK_STATE,
            program::SOCKETS,
            program::XDP
        ]
    );
    for (name, count) in counts {
        let most = budget::verified_instructions(&name).unwrap_or_default();
        assert!(
            (1..=most).contains(&count),
            "{name}: {count}, and defender-testbed/budget.txt allows {most}"
        );
    }
    Ok(())
}
