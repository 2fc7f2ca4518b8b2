//! A small SYN flood from addresses that nobody has: enough to keep services challenged, and few enough for a busy or emulated
//! machine.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    frame::TcpFrame,
    inject::Injector,
    interface,
    topology::{CLIENT_INTERFACE, Topology},
};

/// SYNs in a batch, to the targets in turn.
const BATCH: usize = 60;
const PAUSE: Duration = Duration::from_millis(150);
/// The flood ends by itself after this many.
const MOST_BATCHES: u32 = 1000;

/// Floods these targets with 400 SYNs a second in all while `job` runs, for 150 s at most.
pub fn during<T>(bed: &Topology, targets: &[SocketAddr], job: impl FnOnce() -> Result<T>) -> Result<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| flood(bed, targets, &ended));
        let done = job();
        ended.store(true, Ordering::Relaxed);
        flood.join().expect("no panic");
        done
    })
}

fn flood(bed: &Topology, targets: &[SocketAddr], ended: &AtomicBool) {
    let mut injector = None;
    for _ in 0..MOST_BATCHES {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        // A fault may remove the interface, and create another.
        match interface::index(&bed.client, CLIENT_INTERFACE) {
            Err(_) => injector = None,
            Ok(index) if injector.as_ref().is_some_and(|(known, _)| *known == index) => {}
            Ok(index) => injector = Injector::new(&bed.client, CLIENT_INTERFACE).ok().map(|it| (index, it)),
        }
        if let Some((_, injector)) = &mut injector {
            let frames: Vec<_> =
                targets.iter().cycle().take(BATCH).map(|target| syn(*target).build()).collect();
            // The interface may be gone again.
            let _ = injector.send(&frames);
        }
        thread::sleep(PAUSE);
    }
}

fn syn(to: SocketAddr) -> TcpFrame {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let from: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | number & 0xffff).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 1, number as u16).into(),
    };
    TcpFrame::linux_syn(SocketAddr::new(from, 20_000 + (number >> 16) as u16), to, number)
}
