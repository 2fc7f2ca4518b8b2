//! The tracepoint `inet_sock_set_state`: listeners appear and disappear, connections to services begin and
//! end.

use aya_ebpf::programs::BtfTracePointContext;
use defender_common::{
    abi::{Config, EVENT_LISTEN_BEGAN, EVENT_LISTEN_ENDED, Event},
    wire::address::{Address, Flow},
};

use crate::{
    clock,
    flow::{self, EstablishedBy},
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
        // A socket that a listener spawns also leaves LISTEN, for SYN_RECV. Only CLOSE is the listener's
        // own end.
        (TCP_LISTEN, TCP_CLOSE) => tell(EVENT_LISTEN_ENDED, socket.num),
        (TCP_SYN_RECV, TCP_ESTABLISHED) => {
            socket.visit(&Established { segments: segments(address) });
        }
        (_, TCP_CLOSE_WAIT) => socket.visit(&ClientEnded),
        // A connection that this host initiates belongs to no service. A socket that closes in SYN_RECV was
        // never listed, but may duplicate a listed connection: two cookies of one client on two CPUs. A
        // connection in TIME_WAIT without its socket has closed already when the process closes that socket
        // (`tcp_close_state`, net/ipv4/tcp.c).
        (TCP_SYN_SENT | TCP_SYN_RECV | TCP_CLOSE, _) | (_, TCP_ESTABLISHED) => {}
        _ => socket.visit(&Closed { from: old, segments: segments(address) }),
    }
}

#[inline(always)]
fn tell(kind: u32, port: u16) {
    // If the buffer is full, the controller is about to wake up anyway, and it also checks every second.
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
        flow::established(flow, config, found.id, EstablishedBy::ByKernel(self.segments), time);
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

/// A socket ended. TIME_WAIT, and FIN_WAIT2 without a process, continue without a socket.
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
