//! What the verifier has to walk. Its limit is a million instructions a program, and older kernels see more states.

use std::io::Write as _;

use anyhow::Result;
use defender_common::abi::program;

use super::bed::Bed;

/// The most instructions that the verifier may walk for one program.
const MOST_INSTRUCTIONS: u32 = 700_000;

#[test]
fn instructions_stay_within_budget() -> Result<()> {
    let counts = Bed::new()?.verified_instructions()?;
    // Not captured: a test run shows them whether it succeeds or not.
    let mut output = std::io::stderr().lock();
    for (name, count) in &counts {
        writeln!(output, "verified instructions of {name}: {count} of at most {MOST_INSTRUCTIONS}")?;
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
        assert!((1..=MOST_INSTRUCTIONS).contains(&count), "{name}: {count}");
    }
    Ok(())
}
