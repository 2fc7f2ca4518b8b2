//! The rows together.

use defender_common::verdict::Reason;

use super::{
    checksums, cookies, established, link, malformed, network, options, out_of_state, queues, services,
    sockets, sources,
};

#[test]
fn every_reason_has_a_row() {
    let rows = [
        checksums::rows(),
        cookies::rows(),
        link::rows(),
        malformed::rows(),
        network::rows(),
        options::rows(),
        out_of_state::rows(),
        queues::rows(),
        established::rows(),
        services::rows(),
        sockets::rows(),
        sources::rows(),
    ];
    let expected: Vec<Reason> = rows.iter().flatten().map(|row| row.expected.reason()).collect();
    // Only the kernel can make a cookie of its own: tests/e2e/regressions/kernel_cookies.rs has it make them.
    let of_rows = Reason::ALL.into_iter().filter(|reason| *reason != Reason::KernelCookie);
    let missing: Vec<_> = of_rows.filter(|reason| !expected.contains(reason)).collect();
    assert!(missing.is_empty(), "{} rows, none for {missing:?}", expected.len());
}
