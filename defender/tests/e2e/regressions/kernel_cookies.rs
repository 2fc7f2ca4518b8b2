//! The defence is switched on while the kernel answers with cookies of its own: those handshakes are completed.

use anyhow::Result;
use defender_testbed::{
    frame::{TcpFrame, flag},
    topology::Topology,
};

use crate::harness::{
    kernel::{counted, servers, set_mode},
    scripted_client::{KINDS, Wire},
    start, wait_active,
};

#[test]
fn the_kernel_s_cookies_are_accepted_after_the_switch() -> Result<()> {
    let bed = Topology::new()?;
    // Cookies for everyone, as under attack.
    bed.server.set_sysctl("net.ipv4.tcp_syncookies", "2")?;
    let servers = servers(&bed)?;
    let defender = start(&bed, &["--mode", "monitor"])?;
    let wire = Wire::new(&bed)?;
    let mut clients = Vec::new();
    for server in &servers {
        for kind in KINDS {
            clients.push(wire.greeted(server.address(), kind)?);
        }
    }
    set_mode(&defender, "always")?;
    wait_active(&defender, 80)?;
    let (_, counts) = counted(&defender, || {
        for client in &mut clients {
            client.finish_handshake()?;
            client.talk()?;
        }
        // A guess is no cookie of the kernel's either.
        let to = servers[0].address();
        wire.send(&[TcpFrame::new(wire.address(to), to).flags(flag::ACK).seq(7).ack(12_345)])
    })?;
    assert!(counts.get("pass.kernel_cookie") >= 4, "{counts}");
    counts.assert(&[("ack_rejected", 1), ("handoff_assigned", 0), ("syn_challenged", 0)]);
    Ok(())
}
