//! What the host, its programs and its clock do.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use defender::state::directory::escape;
use defender_testbed::{command, controller::fresh_pin_root, server::Server};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    faults::scene::{PORT, Scene, Situation},
    harness::{
        PROGRAM, connect, eventually,
        process::{Scratch, faketime_library},
        services, status,
    },
};

/// The port of listeners that come and go.
const RESTARTING: u16 = 8080;

/// What is changed, and back.
const SYSCTLS: [(&str, &[&str]); 9] = [
    ("tcp_timestamps", &["0", "2", "1"]),
    ("tcp_sack", &["0", "1"]),
    ("tcp_window_scaling", &["0", "1"]),
    ("tcp_ecn", &["0", "1", "2"]),
    ("tcp_syncookies", &["0", "2", "1"]),
    ("tcp_max_syn_backlog", &["64", "4096"]),
    ("tcp_synack_retries", &["1", "5"]),
    ("ip_default_ttl", &["30", "64"]),
    ("tcp_rmem", &["4096 16384 100000", "4096 131072 6291456"]),
];

/// The kernel resets clients who were promised these a moment before they were switched off, as with its own cookies.
const RESETTING: [&str; 2] = ["tcp_window_scaling", "tcp_syncookies"];

/// Each at its turn: what it was before is what it is after.
pub(crate) fn sysctls_flipped(scene: &mut Scene<'_>) -> Result<()> {
    for (name, values) in SYSCTLS {
        for value in values {
            scene.bed.server.set_sysctl(&format!("net.ipv4.{name}"), value)?;
            scene.connections_live().with_context(|| format!("{name} = {value}"))?;
            if scene.situation == Situation::Flood && (name, *value) == ("tcp_syncookies", "0") {
                // Nothing is challenged then, and the kernel's queue is full: nobody gets in, as without a defender.
                continue;
            }
            if RESETTING.contains(&name) {
                let get_in = format!("clients get in with {name} = {value}");
                eventually(&get_in, || Ok(scene.a_client_gets_in().is_ok()))?;
            }
            scene.a_client_gets_in().with_context(|| format!("{name} = {value}"))?;
        }
    }
    // What cookies promise changes with a key, and keys are five seconds apart at least.
    eventually("clients keep all options again", || Ok(scene.clients_get_in().is_ok()))
}

/// The last one is served like any other.
pub(crate) fn listener_begun_500_times(scene: &mut Scene<'_>) -> Result<()> {
    let addresses = [scene.bed.server_v4(RESTARTING), scene.bed.server_v6(RESTARTING)];
    let listen = |address| scene.bed.server.run(move || Ok(TcpListener::bind(address)?));
    for _ in 0..500 {
        for address in addresses {
            // A process that a row beside this one is starting may hold the one before for a moment.
            eventually("it listens", || Ok(listen(address).is_ok()))?;
        }
    }
    eventually("its services are gone", || Ok(services(scene.defender(), RESTARTING)?.is_empty()))?;
    let mut servers = Vec::new();
    for address in addresses {
        servers.push(Server::start(&scene.bed.server, address)?);
    }
    eventually("its services are there", || Ok(services(scene.defender(), RESTARTING)?.len() == 2))?;
    for address in addresses {
        connect(scene.bed, scene.bed.fresh_client(address), address)?;
    }
    scene.keep(servers);
    Ok(())
}

/// More than there are places for. Those that clients use keep theirs.
pub(crate) fn two_thousand_listeners(scene: &mut Scene<'_>) -> Result<()> {
    let all = scene.bed.server.run(|| {
        let listen = |port| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)));
        Ok((10_000..12_000).map(listen).collect::<std::io::Result<Vec<_>>>()?)
    })?;
    eventually("they are noticed", || {
        Ok(status(scene.defender())?["services"].as_array().is_some_and(|services| services.len() > 500))
    })?;
    scene.clients_get_in()?;
    ensure!(services(scene.defender(), PORT)?.len() == 2, "port {PORT} has lost its place");
    drop(all);
    eventually("they are gone", || {
        Ok(status(scene.defender())?["services"].as_array().is_some_and(|services| services.len() < 10))
    })
}

/// Meanwhile new listeners are noticed, and settings change.
pub(crate) fn many_prefixes(scene: &mut Scene<'_>) -> Result<()> {
    let count = if scene.situation == Situation::Normal { 1_000_000 } else { 100_000 };
    let mut text = String::new();
    for number in 0..count {
        let [_, a, b, c] = u32::to_be_bytes(number);
        let _ = writeln!(text, "{}.{a}.{b}.{c}", 100 + number % 3);
    }
    let scratch = Scratch::new()?;
    let file = scratch.write("deny", text)?;
    let file = file.display().to_string();
    let defender = scene.defender();
    thread::scope(|scope| {
        let deny = scope.spawn(|| defender.ask(&["deny", "add", "--file", &file]));
        let listener = scene.bed.server.run(|| Ok(TcpListener::bind(("0.0.0.0", RESTARTING))?))?;
        defender.wait_for_listener(RESTARTING)?;
        while !deny.is_finished() {
            defender.ask(&["set", "critical", "80%"])?;
            scene.a_client_gets_in()?;
            thread::sleep(Duration::from_millis(200));
        }
        drop(listener);
        deny.join().expect("no panic")
    })?;
    ensure!(
        status(defender)?["prefixes"]["denied"].as_u64() == Some(u64::from(count)),
        "{}",
        status(defender)?
    );
    Ok(())
}

/// It cannot open anything for a while.
pub(crate) fn few_descriptors(scene: &mut Scene<'_>) -> Result<()> {
    let process = scene.defender().id().to_string();
    let limit = |value: &str| command::run("prlimit", &["--pid", &process, &format!("--nofile={value}")]);
    limit("3:")?;
    let meanwhile = scene.connections_live().and_then(|()| scene.clients_get_in());
    thread::sleep(Duration::from_secs(3));
    limit("1024:")?;
    meanwhile
}

/// The kernel takes its memory away and, if that is not enough, its life. What is pinned defends.
pub(crate) fn little_memory(scene: &mut Scene<'_>) -> Result<()> {
    let process = scene.defender().id();
    let group = Group::new(process)?;
    group.limit()?;
    scene.connections_live()?;
    scene.clients_get_in()?;
    thread::sleep(Duration::from_secs(2));
    drop(group);
    if !Path::new(&format!("/proc/{process}/exe")).exists() {
        scene.defender().kill()?;
        scene.defend_again()?;
    }
    Ok(())
}

/// A control group with one process, which goes back to where it was.
struct Group {
    place: PathBuf,
    limit: &'static str,
    process: u32,
}

impl Group {
    fn new(process: u32) -> Result<Self> {
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let (parent, limit) = places
            .into_iter()
            .find(|(place, _)| Path::new(place).join("cgroup.procs").exists())
            .context("no control groups here")?;
        let place = Path::new(parent).join(format!("dfnd-{process}"));
        fs::create_dir(&place)?;
        let group = Self { place, limit, process };
        fs::write(group.place.join("cgroup.procs"), process.to_string())?;
        Ok(group)
    }

    fn limit(&self) -> Result<()> {
        // Refused where that much cannot be taken away.
        let _ = fs::write(self.place.join(self.limit), "3145728");
        ensure!(self.place.join(self.limit).exists(), "no memory controller");
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.place.join(self.limit), "-1")
            .or_else(|_| fs::write(self.place.join(self.limit), "max"));
        if let Some(parent) = self.place.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), self.process.to_string());
        }
        let _ = fs::remove_dir(&self.place);
    }
}

/// A day forward, two back: cookies and keys go by the monotonic clock.
pub(crate) fn clock_steps(scene: &mut Scene<'_>) -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("now", "+0")?;
    let library = faketime_library()?;
    scene.defend_anew(
        fresh_pin_root(),
        &[
            ("LD_PRELOAD", &library),
            ("FAKETIME_TIMESTAMP_FILE", &file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ],
    )?;
    for step in ["+1d", "-1d", "-20000d", "+0"] {
        fs::write(&file, step)?;
        thread::sleep(Duration::from_millis(1200));
        scene.clients_get_in().with_context(|| step.to_owned())?;
        scene.keys_rotate().with_context(|| step.to_owned())?;
        status(scene.defender())?;
    }
    scene.keep(scratch);
    Ok(())
}

/// Without tools the firewall is not known, and that is told.
pub(crate) fn no_nft(scene: &mut Scene<'_>) -> Result<()> {
    let scratch = Scratch::new()?;
    let tools = ["nft", "iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"];
    let hide =
        tools.map(|tool| format!("[ -e /usr/sbin/{tool} ] && mount --bind /dev/null /usr/sbin/{tool}"));
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c '{}; exec {PROGRAM} \"$@\"' defender \"$@\"\n",
        hide.join("; ")
    );
    let program = executable(&scratch, "defender", &text)?;
    scene.defend_by(&program)?;
    scene.keep(scratch);
    scene.defender().ask(&["doctor"]).or_else(|error| {
        // It may find other things wrong here; it must not be the tools.
        ensure!(!format!("{error:#}").contains("nft"), "{error:#}");
        Ok(String::new())
    })?;
    Ok(())
}

pub(crate) fn hanging_nft(scene: &mut Scene<'_>) -> Result<()> {
    let scratch = Scratch::new()?;
    for tool in ["nft", "iptables-save", "ip6tables-save"] {
        executable(&scratch, tool, "#!/bin/sh\nexec sleep 1000\n")?;
    }
    let path = format!("{}:{}", scratch.path("").display(), std::env::var("PATH").unwrap_or_default());
    scene.defend_anew(fresh_pin_root(), &[("PATH", &path)])?;
    scene.keep(scratch);
    Ok(())
}

fn executable(scratch: &Scratch, name: &str, text: &str) -> Result<PathBuf> {
    let path = scratch.write(name, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Somebody who may holds every lock. The loop does not wait.
pub(crate) fn lock_held(scene: &mut Scene<'_>) -> Result<()> {
    let state = Path::new("/run/defender").join(escape(&scene.defender().pin_root().to_string_lossy()));
    let stop = Arc::<AtomicBool>::default();
    let holder = {
        let (stop, state) = (Arc::clone(&stop), state.clone());
        thread::spawn(move || hold(&state, &stop))
    };
    let listener = scene.bed.server.run(|| Ok(TcpListener::bind(("0.0.0.0", RESTARTING))?))?;
    let meanwhile = scene.clients_get_in().and_then(|()| scene.keys_rotate()).and_then(|()| {
        eventually("a new listener is noticed", || Ok(!services(scene.defender(), RESTARTING)?.is_empty()))
    });
    stop.store(true, Ordering::Relaxed);
    holder.join().expect("no panic")?;
    drop(listener);
    meanwhile
}

fn hold(state: &Path, stop: &AtomicBool) -> Result<()> {
    let mut held = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(state)?.flatten() {
            let Ok(file) = fs::File::open(entry.path()) else { continue };
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                held.push(lock);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
