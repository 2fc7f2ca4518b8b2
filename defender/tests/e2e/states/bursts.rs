//! Segments that come together, so that XDP sees the later ones before the kernel has taken the first: the connection is
//! in no table yet when its end passes.

use anyhow::Result;
use defender_common::{flow::Admitted, tcp_state::State};
use defender_testbed::frame::flag;

use crate::{
    harness::scripted_client::{KINDS, Wire},
    states::bed::Bed,
};

#[test]
fn the_end_comes_with_the_handshake() -> Result<()> {
    for (mode, way) in [("monitor", Admitted::Handshake), ("always", Admitted::Cookie)] {
        let bed = Bed::new()?;
        let attachment = bed.attach(mode)?;
        let wire = Wire::new(&bed.topology)?;
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for listener in &bed.listeners {
            for kind in KINDS {
                // The ACK, then the end; data, then the end; the end alone; the end with the only data.
                for shape in 0..4 {
                    let mut client = wire.greeted(listener.address, kind)?;
                    let frames = match shape {
                        0 => vec![client.ack(), client.fin(0)],
                        1 => vec![client.ack(), client.data(0, b"data"), client.fin(4)],
                        2 => vec![client.fin(0)],
                        _ => vec![client.data(0, b"data").flags(flag::ACK | flag::FIN)],
                    };
                    let end = if shape % 2 == 1 { 5 } else { 1 };
                    client.send(&frames)?;
                    accepted.push(listener.accept()?);
                    client.until("its end to be acknowledged", |got| got.acknowledged == end)?;
                    clients.push((client, shape));
                }
            }
        }
        let kernel = bed.kernel()?;
        let listing = attachment.list()?;
        let mut wrong = Vec::new();
        for (client, shape) in &clients {
            assert_eq!(kernel[&client.from], State::CloseWait);
            let told = listing[&client.from].tracked.map(|tracked| (tracked.wire_state, tracked.admitted));
            if told != Some((State::CloseWait, way)) {
                wrong.push(format!("{mode}, shape {shape}, {:?}: {told:?}", client.kind));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    Ok(())
}

/// The server's end is there before the client's first segment behind the handshake.
#[test]
fn the_server_ends_at_once() -> Result<()> {
    for mode in ["monitor", "always"] {
        let bed = Bed::new()?;
        let attachment = bed.attach(mode)?;
        let wire = Wire::new(&bed.topology)?;
        for listener in &bed.listeners {
            for kind in KINDS {
                let mut client = wire.greeted(listener.address, kind)?;
                client.send(&[client.ack(), client.data(0, b"data")])?;
                drop(listener.accept()?);
                // Data that nobody reads: the kernel resets.
                client.until("the reset", |got| got.reset)?;
                assert!(!attachment.list()?.contains_key(&client.from));
            }
        }
        assert_eq!(attachment.counter("flows_ended")?, 4, "{mode}");
    }
    Ok(())
}
