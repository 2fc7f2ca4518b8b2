//! A guest that boots a kernel, and its results.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{qemu::Qemu, verdict::GuestReport};

/// Time limit for all checks, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_mins(20);

/// Two of each, joined by a hub: one for the server, one for its clients.
const NICS: [&str; 2] = ["virtio-net-pci", "e1000"];

/// A guest's components.
pub(crate) struct Guest<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Arguments for the testbed.
    pub(crate) arguments: Vec<String>,
    /// The file for everything the guest prints.
    pub(crate) log: PathBuf,
}

impl Guest<'_> {
    /// Boots it, and passes on each result as it arrives.
    pub(crate) fn run(&self, mut report_line: impl FnMut(&str)) -> Result<GuestReport> {
        let mut child = RunningGuest(self.command()?.spawn().context("cannot run setpriv")?);
        let lines = read_aside(child.0.stdout.take().context("no output of the guest")?);
        let deadline = Instant::now() + PATIENCE;
        let mut report = GuestReport::default();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    report_line(&line);
                    report.read(&line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.0.wait()?;
                    report.ends(&format!("the guest ended without an answer ({status})"));
                    return Ok(report);
                }
                Err(RecvTimeoutError::Timeout) => {
                    report.ends(&format!("no answer within {} minutes", PATIENCE.as_secs() / 60));
                    return Ok(report);
                }
            }
        }
    }

    fn command(&self) -> Result<Command> {
        let mut qemu = self.qemu.command();
        // Software emulation: results do not depend on this machine's processor.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        // The first port is the console. The second carries only the results.
        qemu.arg("-serial").arg(format!("file:{}", path(&self.log)?)).args(["-serial", "stdio"]);
        for (hub, nic) in NICS.into_iter().enumerate() {
            for end in [0, 1] {
                let id = format!("hub{hub}port{end}");
                qemu.arg("-netdev").arg(format!("hubport,id={id},hubid={hub}"));
                qemu.arg("-device")
                    .arg(format!("{nic},netdev={id},mac=52:54:00:00:{hub:02x}:{end:02x},romfile="));
            }
        }
        qemu.arg("-append").arg(format!(
            "console=ttyS0 loglevel=5 rdinit=/init panic=-1 PATH=/bin -- guest {}",
            self.arguments.join(" ")
        ));
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log.with_extension("qemu"))?);
        Ok(qemu)
    }
}

/// Killed on drop.
struct RunningGuest(Child);

impl Drop for RunningGuest {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("not UTF-8: {}", path.display()))
}

/// Reads lines in a thread, so that the receiver can time out.
fn read_aside(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = output.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    receiver
}
