//! Sending prepared frames in one batch: the receiver's NAPI finds all of them in one poll.

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, TestRun as _, TestRunAttrs, TestRunOptions, maps::Array, programs::Xdp};

use crate::{
    abi::{INJECT_FRAMES, INJECT_MAX, INJECT_ROOM, InjectFrame},
    interface,
    netns::{self, Namespace},
    programs,
};

/// Sends frames out of an interface, so that they arrive at the other end of the veth pair.
#[derive(Debug)]
pub struct Injector<'a> {
    namespace: &'a Namespace,
    ifindex: u32,
    ebpf: Ebpf,
}

impl<'a> Injector<'a> {
    /// Prepares to send out of the interface of the namespace. The other end must have an XDP program or GRO.
    pub fn new(namespace: &'a Namespace, interface: &str) -> Result<Self> {
        let ifindex = interface::index(namespace, interface)?;
        let mut ebpf = programs::load_object()?;
        programs::load_program(&mut ebpf, "inject")?;
        Ok(Self { namespace, ifindex, ebpf })
    }

    /// Sends up to [`INJECT_FRAMES`] frames of up to [`INJECT_MAX`] bytes in the order given. All of them are in the
    /// receiver's ring before it is woken. A call takes some ten milliseconds, which the kernel waits for its readers.
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<()> {
        ensure!(
            !frames.is_empty() && frames.len() <= INJECT_FRAMES,
            "1 to {INJECT_FRAMES} frames in a batch"
        );
        self.prepare(frames)?;
        let program: &Xdp = self.ebpf.program("inject").context("no program inject")?.try_into()?;
        let count = frames.len() as u32;
        self.namespace.run(|| {
            netns::ensure_inside_own()?;
            let options = TestRunOptions {
                data_in: Some(&[0; INJECT_ROOM]),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(count),
                ..TestRunOptions::default()
            };
            program.test_run(options).context("cannot inject frames")?;
            Ok(())
        })
    }

    fn prepare<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<()> {
        let mut map =
            Array::<_, InjectFrame>::try_from(self.ebpf.map_mut("INJECT").context("no map INJECT")?)?;
        for (slot, frame) in (0..).zip(frames) {
            let frame = frame.as_ref();
            ensure!(frame.len() <= INJECT_MAX, "a frame of {} bytes is too long", frame.len());
            let mut entry =
                InjectFrame { len: frame.len() as u32, ifindex: self.ifindex, bytes: [0; INJECT_ROOM] };
            entry.bytes[..frame.len()].copy_from_slice(frame);
            map.set(slot, entry, 0)?;
        }
        let mut next = Array::<_, u32>::try_from(self.ebpf.map_mut("NEXT").context("no map NEXT")?)?;
        Ok(next.set(0, 0, 0)?)
    }
}
