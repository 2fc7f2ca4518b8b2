//! Floods: many frames from spoofed addresses, bounded in packets and in seconds.
//!
//! The source is an eBPF program that the kernel runs once per frame ("live frames") and that redirects each frame out
//! of the client end of the link. One call of the kernel lasts for the whole flood, because every call waits for its
//! readers twice; a signal ends it. Three things stop a flood, each for itself: the program counts frames and looks at
//! the clock, a watchdog signals the thread, and the kernel ends the call when the process dies.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::thread::JoinHandleExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, MapData},
    programs::{ProgramError, Xdp},
};
use nix::{
    sys::{pthread::pthread_kill, signal::Signal},
    time::{ClockId, clock_gettime},
};

use crate::{
    abi::{FLOOD_FRAME_MAX, FLOOD_FRAME_ROOM, FloodState, SPOOFED_V4, SPOOFED_V6},
    cpu,
    frame::{Checksum, TcpFrame, flag, linux_options, sum_words, timestamp_options, windows_options},
    interface,
    netns::{self, Namespace},
    programs, signal,
    topology::{CLIENT_INTERFACE, SERVER_INTERFACE, Topology},
};

/// No flood lasts longer.
pub const MAX_TIME: Duration = Duration::from_secs(60);

/// No flood has more packets.
pub const MAX_PACKETS: u64 = 500_000_000;

/// Frames that are handed to the interface together. The kernel takes up to 256; 64 is what a NIC's poll takes.
const BATCH: u32 = 64;

/// Frames that a paced flood sends back to back. A NIC under load delivers in bursts as well, and one wake-up per frame
/// would measure wake-ups.
const BURST: u64 = 16;

/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(5);

/// How long after its time the call may last before the watchdog ends it.
const GRACE: Duration = Duration::from_millis(200);

/// Ends the kernel's call; nothing else uses it here.
const INTERRUPT: Signal = Signal::SIGUSR2;

/// The processor that a flood's source has to itself: the last one, if there are several.
pub fn source_cpu() -> Option<usize> {
    let cpus = cpu::count();
    (cpus > 1).then(|| cpus - 1)
}

/// What the frames of a flood are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs with the options of Linux: MSS, SACK, timestamps, window scale.
    LinuxSyn,
    /// SYNs with the options of Windows: MSS, window scale, SACK.
    WindowsSyn,
    /// SYNs without options.
    PlainSyn,
    /// ACKs with timestamps, sequence and acknowledgement numbers and TSecr all random: forged cookies.
    Ack,
    /// ACKs without timestamps, numbers random: forged cookies.
    PlainAck,
    /// RSTs with a random sequence number.
    Rst,
    /// SYN-ACKs, as a reflection attack brings them.
    SynAck,
}

/// Addresses to spoof: all of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// An IPv4 network and the length of its prefix in bits.
    V4(Ipv4Addr, u8),
    /// 2001:db8:f::/48.
    V6,
    /// 2001:db8:f::/64: one network of these.
    V6Network,
}

/// Orders for a flood. Begin with [`Flood::new`], change what you like, then [`start`](Flood::start) it.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// What is sent.
    pub kind: Kind,
    /// Where to.
    pub target: SocketAddr,
    /// Where from.
    pub source: Range,
    /// Packets per second; as fast as it goes without.
    pub rate: Option<u64>,
    /// Packets at most; never more than [`MAX_PACKETS`].
    pub max_packets: u64,
    /// Time at most; never more than [`MAX_TIME`].
    pub max_time: Duration,
    /// Frames sent back to back when there is a rate.
    pub burst: u64,
    /// Frames handed to the interface together, up to 256.
    pub batch: u32,
    /// Processor of the source.
    pub cpu: Option<usize>,
}

impl Flood {
    /// As fast as it goes from 198.18.0.0/15 or 2001:db8:f::/48, for at most a second and ten million packets.
    pub fn new(kind: Kind, target: SocketAddr) -> Self {
        let source = if target.is_ipv4() { Range::V4(Ipv4Addr::new(198, 18, 0, 0), 15) } else { Range::V6 };
        Self {
            kind,
            target,
            source,
            rate: None,
            max_packets: 10_000_000,
            max_time: Duration::from_secs(1),
            burst: BURST,
            batch: BATCH,
            cpu: source_cpu(),
        }
    }

    /// Starts it in the client namespace. It ends by itself; dropping the handle ends it as well.
    pub fn start(self, bed: &Topology) -> Result<FloodHandle<'_>> {
        self.check()?;
        let state = self.state(interface::index(&bed.client, CLIENT_INTERFACE)?)?;
        let (program, name) = load(self.target.is_ipv4(), state)?;
        let Loaded { ebpf, map } = program;
        let map = Arc::new(Mutex::new(map));
        let before = interface::statistics(&bed.server, SERVER_INTERFACE)?.rx_packets;
        signal::let_interrupt(INTERRUPT)?;
        let source = bed.client.spawn("flood", move || self.run(&ebpf, name))?;
        let (stop, stopped) = channel();
        let watchdog = {
            let map = Arc::clone(&map);
            let deadline = Instant::now() + self.max_time + GRACE;
            thread::Builder::new()
                .name("flood-watchdog".to_owned())
                .spawn(move || watch(source, &map, &stopped, deadline))?
        };
        Ok(FloodHandle { map, stop, watchdog: Some(watchdog), server: &bed.server, before })
    }

    /// Starts it and waits for its end.
    pub fn run_to_end(self, bed: &Topology) -> Result<FloodReport> {
        self.start(bed)?.wait()
    }

    fn check(&self) -> Result<()> {
        ensure!(self.max_packets <= MAX_PACKETS, "a flood has at most {MAX_PACKETS} packets");
        ensure!(self.max_time <= MAX_TIME, "a flood lasts at most {} s", MAX_TIME.as_secs());
        ensure!(self.rate != Some(0), "a flood has at least one packet per second");
        ensure!((1..=256).contains(&self.batch), "the kernel takes batches of 1 to 256 frames");
        ensure!(self.burst > 0, "a burst has at least one frame");
        match self.source {
            Range::V4(network, length) => check_v4(network, length),
            Range::V6 | Range::V6Network => Ok(()),
        }
    }

    /// The program's orders.
    fn state(&self, ifindex: u32) -> Result<FloodState> {
        let frame = self.template()?;
        let network = if self.target.is_ipv4() { 14..34 } else { 14..54 };
        let tcp = network.end;
        let mut template = [0; FLOOD_FRAME_ROOM];
        template[..frame.len()].copy_from_slice(&frame);
        if self.target.is_ipv4() {
            template[24..26].fill(0);
        }
        let pseudo = pseudo_header(&template[network.clone()], frame.len() - tcp);
        Ok(FloodState {
            ip_sum: sum_words(&template[network]),
            tcp_sum: sum_words(&template[tcp..frame.len()]) + pseudo,
            len: frame.len() as u32,
            ifindex,
            source_mask: self.source_mask(),
            seq_mask: u32::MAX,
            ack_mask: if self.kind.has_ack() { u32::MAX } else { 0 },
            stamp_mask: if self.kind.has_stamp() { u32::MAX } else { 0 },
            random: seed(),
            pace: self.rate.map_or(0, |rate| (rate << 32) / 1_000_000_000),
            burst: self.burst,
            max_frames: self.max_packets,
            max_ns: self.max_time.as_nanos() as u64,
            started_ns: 0,
            ended_ns: 0,
            allowed: 0,
            forgiven: 0,
            sent: 0,
            idle: 0,
            template: words(&template),
        })
    }

    /// The frame with zeroes where the program puts random bits, and in the TCP checksum.
    fn template(&self) -> Result<Vec<u8>> {
        let network: IpAddr = match self.source {
            Range::V4(network, _) => network.into(),
            Range::V6 | Range::V6Network => {
                let [a, b, c] = SPOOFED_V6;
                Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
            }
        };
        ensure!(network.is_ipv4() == self.target.is_ipv4(), "source and target of a flood are of one family");
        let mss = if network.is_ipv4() { 1460 } else { 1440 };
        let frame = TcpFrame::new(SocketAddr::new(network, 0), self.target).checksum(Checksum::Exactly(0));
        let frame = match self.kind {
            Kind::LinuxSyn => frame.flags(flag::SYN).options(&linux_options(mss, 0, 7)),
            Kind::WindowsSyn => frame.flags(flag::SYN).options(&windows_options(mss, 8)),
            Kind::PlainSyn => frame.flags(flag::SYN),
            Kind::Ack => frame.ack(0).options(&timestamp_options(0x0102_0304, 0)),
            Kind::PlainAck => frame.ack(0),
            Kind::Rst => frame.flags(flag::RST),
            Kind::SynAck => frame.flags(flag::SYN).ack(0).options(&linux_options(mss, 0, 7)),
        };
        let frame = frame.build();
        ensure!(frame.len() <= FLOOD_FRAME_MAX, "a flood frame has at most {FLOOD_FRAME_MAX} bytes");
        Ok(frame)
    }

    fn source_mask(&self) -> u32 {
        match self.source {
            Range::V4(_, length) => (!mask_v4(length)).to_be(),
            // Of four bytes behind the /48, of which the first two say which /64. The others are random in any case.
            Range::V6 => u32::MAX,
            Range::V6Network => 0xffff_u32.to_be(),
        }
    }

    /// The thread of the source.
    fn run(self, ebpf: &Ebpf, name: &str) -> Result<()> {
        netns::ensure_inside_own()?;
        if let Some(cpu) = self.cpu {
            cpu::pin_current(cpu)?;
        }
        let program: &Xdp = ebpf.program(name).context("no flood program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&[0; FLOOD_FRAME_ROOM]),
            repeat: u32::MAX,
            attrs: TestRunAttrs::new().xdp_live_frames(self.batch),
            ..TestRunOptions::default()
        };
        match program.test_run(options) {
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINTR) => {
                Ok(())
            }
            other => other.map(drop).context("the kernel refuses to run the flood"),
        }
    }
}

impl Kind {
    fn has_ack(self) -> bool {
        matches!(self, Self::Ack | Self::PlainAck | Self::SynAck)
    }

    /// Whether a timestamp lies 28 bytes into the TCP header.
    fn has_stamp(self) -> bool {
        matches!(self, Self::LinuxSyn | Self::SynAck | Self::Ack)
    }
}

/// A flood that is under way.
#[must_use = "dropping it ends the flood"]
pub struct FloodHandle<'a> {
    map: Arc<Mutex<Array<MapData, FloodState>>>,
    stop: Sender<()>,
    watchdog: Option<JoinHandle<Result<FloodState>>>,
    server: &'a Namespace,
    before: u64,
}

/// What a flood was.
#[derive(Clone, Copy, Debug)]
pub struct FloodReport {
    /// Packets that the source sent.
    pub sent: u64,
    /// Packets that the server end took in the meantime, whoever sent them. What did not fit its ring is missing.
    pub taken: u64,
    /// Packets that the pace asked for and the source gave up, because it had fallen too far behind.
    pub forgiven: u64,
    /// Time from the first packet to the last.
    pub elapsed: Duration,
}

impl FloodReport {
    /// Packets sent per second.
    pub fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Packets taken per second.
    pub fn taken_per_second(&self) -> f64 {
        self.taken as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

impl FloodHandle<'_> {
    /// Packets sent so far.
    pub fn sent(&self) -> Result<u64> {
        Ok(read(&self.map)?.sent)
    }

    /// Waits until the first packet was sent: starting takes some tens of milliseconds, or longer on a busy machine.
    pub fn wait_until_running(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while read(&self.map)?.started_ns == 0 {
            ensure!(Instant::now() < deadline, "the flood does not start");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it now.
    pub fn stop(self) -> Result<FloodReport> {
        // The watchdog may have ended it already.
        let _ = self.stop.send(());
        self.wait()
    }

    /// Waits until it ends.
    pub fn wait(mut self) -> Result<FloodReport> {
        let watchdog = self.watchdog.take().context("the flood was waited for already")?;
        let state = watchdog.join().map_err(|_| anyhow!("the flood's watchdog panicked"))??;
        // Frames that were sent last may still lie in the ring.
        thread::sleep(Duration::from_millis(2));
        let taken = interface::statistics(self.server, SERVER_INTERFACE)?.rx_packets - self.before;
        Ok(FloodReport {
            sent: state.sent,
            taken,
            forgiven: state.forgiven,
            elapsed: Duration::from_nanos(state.ended_ns.saturating_sub(state.started_ns)),
        })
    }
}

impl Drop for FloodHandle<'_> {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

struct Loaded {
    ebpf: Ebpf,
    map: Array<MapData, FloodState>,
}

fn load(ipv4: bool, state: FloodState) -> Result<(Loaded, &'static str)> {
    let name = if ipv4 { "flood_v4" } else { "flood_v6" };
    let mut ebpf = programs::load_object()?;
    programs::load_program(&mut ebpf, name)?;
    let mut map = Array::<_, FloodState>::try_from(ebpf.take_map("FLOOD").context("no map FLOOD")?)?;
    map.set(0, state, 0)?;
    Ok((Loaded { ebpf, map }, name))
}

/// Ends the source's call when the flood is over, its time is up, or someone asks for it.
fn watch(
    source: JoinHandle<Result<()>>,
    map: &Mutex<Array<MapData, FloodState>>,
    stopped: &Receiver<()>,
    deadline: Instant,
) -> Result<FloodState> {
    let mut over = false;
    while !source.is_finished() {
        over |= !matches!(stopped.recv_timeout(WATCH), Err(RecvTimeoutError::Timeout));
        over |= read(map)?.ended_ns != 0 || Instant::now() > deadline;
        if over {
            // The thread may not be in the call yet, or have ended: it is asked again until it has.
            let _ = pthread_kill(source.as_pthread_t(), INTERRUPT);
        }
    }
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64;
    source.join().map_err(|_| anyhow!("the flood's thread panicked"))??;
    let mut state = read(map)?;
    if state.started_ns == 0 {
        bail!("the flood sent nothing");
    }
    if state.ended_ns == 0 {
        state.ended_ns = now;
    }
    Ok(state)
}

fn read(map: &Mutex<Array<MapData, FloodState>>) -> Result<FloodState> {
    Ok(map.lock().unwrap_or_else(PoisonError::into_inner).get(&0, 0)?)
}

fn check_v4(network: Ipv4Addr, length: u8) -> Result<()> {
    ensure!(length <= 32, "{length} is no length of an IPv4 prefix");
    let bits = u32::from(network);
    ensure!(bits & !mask_v4(length) == 0, "{network}/{length} has host bits");
    let inside = |(range, mask): &(u32, u32)| bits & mask == *range && mask_v4(length) & mask == *mask;
    ensure!(SPOOFED_V4.iter().any(inside), "{network}/{length} is none of the ranges reserved for tests");
    Ok(())
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// Sum of the pseudo-header, from the bytes of the IP header.
fn pseudo_header(network: &[u8], segment: usize) -> u32 {
    let addresses = if network.len() == 20 { &network[12..20] } else { &network[8..40] };
    sum_words(addresses) + sum_words(&[0, 6]) + sum_words(&(segment as u32).to_be_bytes())
}

fn words(bytes: &[u8; FLOOD_FRAME_ROOM]) -> [u64; FLOOD_FRAME_ROOM / 8] {
    let mut words = [0; FLOOD_FRAME_ROOM / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Anything but zero; two floods should not send the same frames.
fn seed() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_nsec() as u64);
    (now << 20) ^ 0x9e37_79b9_7f4a_7c15
}

#[cfg(test)]
mod tests {
    use super::{Flood, Kind, Range, check_v4};

    #[test]
    fn only_ranges_for_tests_are_spoofed() {
        let check = |address: &str, length| check_v4(address.parse().unwrap(), length).is_ok();
        assert!(check("198.18.0.0", 15));
        assert!(check("198.19.4.0", 24));
        assert!(check("203.0.113.7", 32));
        assert!(!check("198.18.0.0", 14));
        assert!(!check("198.18.0.1", 15));
        assert!(!check("8.8.8.0", 24));
        assert!(!check("0.0.0.0", 0));
    }

    #[test]
    fn floods_are_bounded() {
        let flood = Flood::new(Kind::LinuxSyn, "10.203.0.2:80".parse().unwrap());
        assert!(flood.check().is_ok());
        assert!(Flood { max_packets: u64::MAX, ..flood }.check().is_err());
        assert!(Flood { max_time: super::MAX_TIME * 2, ..flood }.check().is_err());
        assert!(Flood { source: Range::V4([10, 0, 0, 0].into(), 8), ..flood }.check().is_err());
    }

    #[test]
    fn masks_are_in_network_order() {
        let flood = Flood::new(Kind::PlainSyn, "10.203.0.2:80".parse().unwrap());
        assert_eq!(flood.state(1).unwrap().source_mask.to_ne_bytes(), [0, 1, 255, 255]);
    }
}
