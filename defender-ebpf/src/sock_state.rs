//! Hears of this host's sockets: listeners that come and go, connections to services that begin and end.

use aya_ebpf::programs::BtfTracePointContext;
use defender_common::{
    abi::{Config, EVENT_LISTEN_BEGAN, EVENT_LISTEN_ENDED, Event},
    wire::address::{Address, Flow},
};

use crate::{
    clock,
    flow::{self, Told},
    maps::EVENTS,
    service,
    sock_common::{SockCommon, Visit, segments},
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;
const TCP_LISTEN: i32 = 10;

/// `inet_sock_set_state(sk, oldstate, newstate)`.
#[inline(always)]
pub(crate) fn changed(ctx: &BtfTracePointContext) {
    let address: *const SockCommon = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if !matches!(new, TCP_ESTABLISHED | TCP_CLOSE_WAIT | TCP_LISTEN | TCP_CLOSE) {
        return;
    }
    let common = if new == TCP_CLOSE { SockCommon::read_closed(address) } else { SockCommon::read(address) };
    let Some(socket) = common else { return };
    if !socket.is_ours() || !SockCommon::is_tcp(address) {
        return;
    }
    match (old, new) {
        (_, TCP_LISTEN) => tell(EVENT_LISTEN_BEGAN, socket.num),
        // A socket that a listener spawns leaves LISTEN as well, for SYN_RECV: only CLOSE is the listener's own end.
        (TCP_LISTEN, TCP_CLOSE) => tell(EVENT_LISTEN_ENDED, socket.num),
        (TCP_SYN_RECV, TCP_ESTABLISHED) => {
            socket.visit(&Established { segments: segments(address) });
        }
        (_, TCP_CLOSE_WAIT) => socket.visit(&ClientEnded),
        // What this host opens itself is no service's. What closes in SYN_RECV was never listed, but may be the double of
        // a connection that was: two cookies of one client on two CPUs.
        (TCP_SYN_SENT | TCP_SYN_RECV, _) | (_, TCP_ESTABLISHED) => {}
        _ => socket.visit(&Closed { from: old, segments: segments(address) }),
    }
}

#[inline(always)]
fn tell(kind: u32, port: u16) {
    // If the buffer is full the controller has events to wake up for anyway, and it looks by itself every second.
    let _ = EVENTS.output::<Event>(Event { kind, subject: port as u32, detail: 0, at: 0 }, 0);
}

/// A handshake is complete.
struct Established {
    segments: Option<u32>,
}

impl Visit for Established {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        let Some(found) = service::find(flow.destination, flow.destination_port) else { return };
        let time = clock::time_for_tracing();
        flow::established(flow, config, found.id, Told::ByKernel(self.segments), time);
    }
}

/// The client has closed.
struct ClientEnded;

impl Visit for ClientEnded {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        flow::client_ended(flow, config);
    }
}

/// A socket is no more. What goes on in TIME_WAIT, or in FIN_WAIT2 without a process, does so without one.
struct Closed {
    from: i32,
    segments: Option<u32>,
}

impl Visit for Closed {
    #[inline(always)]
    fn visit<A: Address>(&self, flow: &Flow<A>, config: &Config) {
        flow::closed(flow, config, self.from as u8, self.segments);
    }
}
