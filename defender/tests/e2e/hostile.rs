//! Unprivileged users and damaged files cannot harm the defence.

use std::{
    fs::{self, File, Permissions},
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use defender::dataplane::{maps::Maps, pins::PinRoot};
use defender_testbed::{
    controller::{Controller, fresh_pin_root},
    netns::Namespace,
    server::{self, Server},
    topology::{SERVER_INTERFACE, Topology},
};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Gid, Pid, Uid, chown, mkfifo},
};

use crate::harness::{
    Counts, PATIENCE, PROGRAM, connect, eventually, run, services, start, start_always, status, wait_active,
};

/// A user of this host, who is nobody in particular.
const USER: u32 = 65_534;

/// What such a user runs: Python, until it is killed. It says a word on standard output when it is ready.
struct User(Child);

impl User {
    fn run(namespace: &Namespace, script: &str) -> Result<Self> {
        // Entering the namespace needs root, and so do many files; nothing else does.
        let become_user = format!(
            "import fcntl, os, resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
os.setgroups([]); os.setgid({USER}); os.setuid({USER})\n"
        );
        let mut command = namespace.command("python3")?;
        command.arg("-c").arg(become_user + script).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run python3")?;
        let mut word = [0; 5];
        child
            .stdout
            .as_mut()
            .context("no output")?
            .read_exact(&mut word)
            .context("the user's program failed")?;
        Ok(Self(child))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the controllers of a pin root keep what they tell others.
fn run_directory(pins: &Path) -> PathBuf {
    let name = pins.to_string_lossy().trim_matches('/').replace('-', "%2d").replace('/', "-");
    Path::new("/run/defender").join(name)
}

/// Everything in these directories, and they themselves.
fn everything(directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = directories.to_vec();
    let mut index = 0;
    while let Some(path) = all.get(index).cloned() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                all.push(entry?.path());
            }
        }
        index += 1;
    }
    Ok(all)
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Which of the keys cookies are made with at present.
fn current_key(pins: &Path) -> Result<u32> {
    Ok(Maps::open(&PinRoot::new(pins)?)?.config.get(0)?.key_current)
}

#[test]
fn a_user_can_hold_no_lock() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let pins = defender.pin_root().to_owned();
    let files = everything(&[run_directory(&pins), pins.clone()])?;
    ensure!(files.iter().any(|file| file.ends_with("write.lock")), "{files:?}");
    let paths: Vec<String> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    let script = format!(
        "held = []
for path in [{}]:
    try:
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_SH)
    except OSError:
        pass
print('ready', flush=True)
time.sleep(120)",
        paths.join(", ")
    );
    let _user = User::run(&bed.server, &script)?;
    // Settings, lists and services go on, and so does the end.
    defender.ask(&["set", "80.mode", "monitor"])?;
    defender.ask(&["deny", "add", "203.0.113.7"])?;
    let _late = Server::start(&bed.server, bed.server_v6(81))?;
    wait_active(&defender, 81)?;
    assert!(defender.stop()?.success());
    assert!(!pins.exists() && !run_directory(&pins).exists());
    Ok(())
}

/// Locks are no longer to be had, and commands say why.
#[test]
fn a_directory_that_others_may_write_to_stops_neither_services_nor_the_end() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let (pins, directory) = (defender.pin_root().to_owned(), run_directory(defender.pin_root()));
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    // `status` refuses, but the kernel does not.
    let _late = Server::start(&bed.server, bed.server_v6(81))?;
    eventually("the listener is known", || {
        let maps = Maps::open(&PinRoot::new(&pins)?)?;
        Ok((1..maps.services.len()).any(|id| maps.services.get(id).is_ok_and(|slot| slot.port == 81)))
    })?;
    let output = run(&bed, &pins, &["set", "mode", "monitor"])?;
    assert!(complaint(&output).contains("`chmod go-w"), "{}", complaint(&output));
    assert!(defender.stop()?.success());
    assert!(!pins.exists() && !directory.exists());
    Ok(())
}

/// What a root shell does with `flock`, or a `defender set` that was stopped.
#[test]
fn a_lock_that_is_withheld_stops_neither_services_nor_keys_nor_the_end() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start_always(&bed, &[80])?;
    let pins = defender.pin_root().to_owned();
    let withheld = File::open(run_directory(&pins).join("write.lock"))?;
    withheld.lock()?;
    let begun = Instant::now();
    let us = std::process::id().to_string();
    for command in [&["set", "mode", "monitor"][..], &["deny", "add", "203.0.113.7"], &["detach"]] {
        let output = run(&bed, &pins, command)?;
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let complaint = complaint(&output);
        assert!(complaint.contains(&us) && complaint.contains("write.lock"), "{complaint}");
    }
    assert!(begun.elapsed() < PATIENCE);
    let key = current_key(&pins)?;
    // Whose window scale is another, so that a key is due.
    let small = server::Options {
        prepare: Some(|socket| {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &8192)
        }),
        ..server::Options::default()
    };
    let _late = Server::with(&bed.server, bed.server_v6(81), small)?;
    wait_active(&defender, 81)?;
    eventually("a new key is drawn", || Ok(current_key(&pins)? != key))?;
    connect(&bed, bed.fresh_client(bed.server_v6(81)), bed.server_v6(81))?;
    assert!(defender.stop()?.success());
    assert!(!pins.exists() && !run_directory(&pins).exists());
    Ok(())
}

#[test]
fn all_that_is_made_is_private_whatever_the_umask_and_what_was_there() -> Result<()> {
    let bed = Topology::new()?;
    for umask in ["000", "077", "777"] {
        let pins = fresh_pin_root();
        let directory = run_directory(&pins);
        // As a former version leaves them.
        fs::create_dir_all(&directory)?;
        for name in ["controller.lock", "write.lock"] {
            fs::write(directory.join(name), "")?;
            fs::set_permissions(directory.join(name), Permissions::from_mode(0o644))?;
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        let attach = format!(
            "umask {umask}; exec {PROGRAM} attach --no-allow-ssh --iface {SERVER_INTERFACE} --pin-root {}",
            pins.display()
        );
        let output = bed.server.command("sh")?.args(["-c", &attach]).output()?;
        ensure!(output.status.success(), "{}", complaint(&output));
        for path in everything(&[directory.clone(), pins.clone()])? {
            let found = path.symlink_metadata()?;
            assert_eq!(found.mode() & 0o077, 0, "{}", path.display());
            assert!(found.is_file() || found.mode() & 0o700 == 0o700, "{}", path.display());
        }
        ensure!(run(&bed, &pins, &["detach"])?.status.success());
        assert!(!pins.exists() && !directory.exists());
    }
    Ok(())
}

#[test]
fn where_others_could_put_their_maps_nothing_is_done() -> Result<()> {
    let bed = Topology::new()?;
    let pins = fresh_pin_root();
    let inner = pins.join("inner");
    fs::create_dir_all(inner.join("maps"))?;
    let directory = run_directory(&inner);
    fs::create_dir_all(&directory)?;
    let own = |path: &Path, uid| chown(path, Some(Uid::from_raw(uid)), None::<Gid>);
    let refused = |path: &Path, what: &str| -> Result<()> {
        let commands: [&[&str]; 6] = [
            &["status"],
            &["set", "mode", "off"],
            &["allow", "list"],
            &["detach"],
            &["attach", "--iface", SERVER_INTERFACE],
            &["run", "--iface", SERVER_INTERFACE],
        ];
        for command in commands {
            let output = run(&bed, &inner, command)?;
            let complaint = complaint(&output);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {complaint}");
            assert!(complaint.contains(&format!("{what} {}", path.display())), "{complaint}");
        }
        Ok(())
    };
    for path in [&pins, &inner, &inner.join("maps"), &directory] {
        own(path, USER)?;
        refused(path, "`chown 0")?;
        own(path, 0)?;
        let before = fs::metadata(path)?.permissions();
        for mode in [0o777, 0o770] {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            refused(path, "`chmod go-w")?;
        }
        fs::set_permissions(path, before)?;
    }
    fs::remove_dir_all(&directory)?;
    for path in [inner.join("maps"), inner.clone(), pins] {
        fs::remove_dir(path)?;
    }
    Ok(())
}

/// A user listens on a port that is a service's on the defended interface: the kernel allows that on another device.
#[test]
fn a_listener_on_another_device_is_nobody_s_concern() -> Result<()> {
    let bed = Topology::new()?;
    bed.server.ip("link add other0 type veth peer name other1")?;
    bed.server.ip("link set other0 up")?;
    let on = |device| server::Options { device: Some(device), ..server::Options::default() };
    for address in [bed.server_v4(8080), bed.server_v6(8080)] {
        let _server = Server::with(&bed.server, address, on(SERVER_INTERFACE))?;
        let defender = start_always(&bed, &[8080])?;
        let before = shown(&defender)?;
        for (device, marker) in [("lo", 90), ("other0", 91)] {
            let _user = User::run(&bed.server, &listen_with_mptcp(address, device))?;
            // What listens later is known by then.
            let _marker = Server::start(&bed.server, bed.server_v4(marker))?;
            wait_active(&defender, marker)?;
            assert_eq!(shown(&defender)?, before, "{address} on {device}");
            let counts = Counts::of(&defender)?;
            connect(&bed, bed.fresh_client(address), address)?;
            (&Counts::of(&defender)? - &counts).assert_connections(1);
        }
    }
    Ok(())
}

/// What does not change by itself of how the service on port 8080 is defended.
fn shown(defender: &Controller<'_>) -> Result<Vec<String>> {
    let explained: serde_json::Value = serde_json::from_str(&defender.ask(&["explain", "8080", "--json"])?)?;
    let services = explained["services"].as_array().context("no services")?;
    let service = |service: &serde_json::Value| {
        format!(
            "{} {} {} {}",
            service["address"], service["unprotectable"], service["triggers"], service["queues"]
        )
    };
    Ok(services.iter().map(service).collect())
}

fn listen_with_mptcp(address: SocketAddr, device: &str) -> String {
    format!(
        "family = socket.AF_INET6 if ':' in '{0}' else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM, 262)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'{device}')
s.bind(('{0}', {1}))
s.listen(1)
print('ready', flush=True)
time.sleep(120)",
        address.ip(),
        address.port()
    )
}

#[test]
fn thousands_of_listeners_of_a_user_leave_room_for_others() -> Result<()> {
    let bed = Topology::new()?;
    for address in [bed.server_v4(0), bed.server_v6(0)] {
        let defender = start(&bed, &["--mode", "always"])?;
        let user = User::run(&bed.server, &listen_many(address))?;
        eventually("the user's services are known", || {
            Ok(defended(&defender)? > 500 && left_out(&defender)?.is_some())
        })?;
        let _server = Server::start(&bed.server, SocketAddr::new(address.ip(), 60_000))?;
        wait_active(&defender, 60_000)?;
        let warning = left_out(&defender)?.context("nobody is left out")?;
        assert!(warning.contains(&format!("of uid {USER}, on ports ")), "{warning}");
        drop(user);
        eventually("nobody is left out", || Ok(left_out(&defender)?.is_none()))?;
    }
    Ok(())
}

fn defended(defender: &Controller<'_>) -> Result<usize> {
    Ok(status(defender)?["services"].as_array().context("no services")?.len())
}

/// The warning that services that fit.
fn left_out(defender: &Controller<'_>) -> Result<Option<String>> {
    let status = status(defender)?;
    let warnings = status["warnings"].as_array().context("no warnings")?.iter();
    let mut texts = warnings.filter_map(|warning| warning.as_str());
    Ok(texts.find(|text| text.contains("that fit")).map(str::to_owned))
}

fn listen_many(address: SocketAddr) -> String {
    format!(
        "family = socket.AF_INET6 if ':' in '{0}' else socket.AF_INET
held = []
for port in range(2000, 4000):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.bind(('{0}', port))
    s.listen(1)
    held.append(s)
print('ready', flush=True)
time.sleep(300)",
        address.ip()
    )
}

/// The files below /run that a controller keeps.
const FILES: [&str; 5] = ["settings.json", "findings.json", "lists.json", "controller.lock", "write.lock"];

type Damage = fn(&Path) -> Result<()>;

/// Ways to damage a file that is not there.
const DAMAGES: [(&str, Damage); 9] = [
    ("removed", |_| Ok(())),
    ("empty", |path| Ok(fs::write(path, "")?)),
    ("garbage", |path| Ok(fs::write(path, [0xff, 0x00, b'{'])?)),
    ("foreign", |path| Ok(fs::write(path, "{\"version\": 99}")?)),
    ("a directory", |path| Ok(fs::create_dir_all(path.join("within"))?)),
    ("a link", |path| Ok(symlink("/etc/hostname", path)?)),
    ("a FIFO", |path| Ok(mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)),
    ("huge", |path| Ok(File::create(path)?.set_len(1 << 40)?)),
    ("a user's", |path| {
        fs::write(path, "{}")?;
        Ok(chown(path, Some(Uid::from_raw(USER)), None::<Gid>)?)
    }),
];

fn damage(path: &Path, damage: Damage) -> Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    } else if path.exists() {
        fs::remove_file(path)?;
    }
    damage(path).with_context(|| path.display().to_string())
}

/// Whether every file is what it should be: regular, private, ours.
fn are_sound(directory: &Path) -> bool {
    FILES.iter().all(|name| {
        let found = directory.join(name).symlink_metadata();
        found
            .is_ok_and(|it| it.is_file() && it.mode() & 0o777 == 0o600 && it.uid() == 0 && it.len() < 1 << 20)
    })
}

#[test]
fn damaged_files_stop_no_command_and_are_written_again() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let defender = start(&bed, &["--mode", "monitor"])?;
    let directory = run_directory(defender.pin_root());
    defender.ask(&["set", "80.mode", "always"])?;
    defender.ask(&["deny", "add", "203.0.113.7"])?;
    // Whoever knows this listener has heard of the settings.
    let _later = Server::start(&bed.server, bed.server_v4(81))?;
    eventually("the listener is known", || Ok(!services(&defender, 81)?.is_empty()))?;
    for round in 0..5 {
        let kind = |index: usize| DAMAGES[(2 * round + index) % DAMAGES.len()];
        for (index, file) in FILES.iter().enumerate() {
            damage(&directory.join(file), kind(index).1)?;
        }
        let name = format!("settings: {}; findings: {}", kind(0).0, kind(1).0);
        // None of these waits for a FIFO, and what was set is not forgotten.
        let shown = status(&defender).with_context(|| name.clone())?;
        assert_eq!(shown["services"][0]["mode"], "always", "{name}");
        assert_eq!(defender.ask(&["get", "80.mode"])?.trim(), "always", "{name}");
        defender.ask(&["set", "reply_budget", "77"]).with_context(|| name.clone())?;
        assert_eq!(defender.ask(&["get", "80.mode"])?.trim(), "always", "{name}");
        defender.ask(&["deny", "add", "203.0.113.8"])?;
        defender.ask(&["deny", "del", "203.0.113.8"])?;
        eventually(&format!("all is sound after: {name}"), || Ok(are_sound(&directory)))?;
    }
    // All at once: the directory.
    fs::remove_dir_all(&directory)?;
    eventually("the directory is there again", || Ok(are_sound(&directory)))?;
    assert_eq!(defender.ask(&["get", "80.mode"])?.trim(), "always");
    assert!(defender.stop()?.success());
    Ok(())
}

#[test]
fn a_controller_begins_with_damaged_files_as_well() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    for shift in 0..3 {
        let first = start_always(&bed, &[80])?;
        let pins = first.pin_root().to_owned();
        first.kill()?;
        let directory = run_directory(&pins);
        let kept = defender_testbed::controller::state_directory(&pins);
        let kept = kept.join(directory.file_name().context("no name")?);
        fs::create_dir_all(&kept)?;
        let below_var = ["baselines.json", "events.jsonl", "events.jsonl.1"];
        let all = FILES.iter().map(|name| directory.join(name)).chain(below_var.map(|name| kept.join(name)));
        for (index, path) in all.enumerate() {
            damage(&path, DAMAGES[(index * 2 + shift * 3) % DAMAGES.len()].1)?;
        }
        let second = Controller::start_at(
            &bed.server,
            Path::new(PROGRAM),
            SERVER_INTERFACE,
            &["--mode", "always"],
            pins,
        )?;
        wait_active(&second, 80)?;
        connect(&bed, bed.fresh_client(bed.server_v4(80)), bed.server_v4(80))?;
        ensure!(run(&bed, second.pin_root(), &["events"])?.status.success());
        eventually("all is sound", || Ok(are_sound(&directory)))?;
        assert!(second.stop()?.success());
    }
    Ok(())
}

#[test]
fn two_controllers_never_live_side_by_side() -> Result<()> {
    let bed = Topology::new()?;
    let _server = Server::start(&bed.server, bed.server_v4(80))?;
    let first = start_always(&bed, &[80])?;
    let pins = first.pin_root().to_owned();
    let directory = run_directory(&pins);
    let lock = directory.join("controller.lock");
    let second = || -> Result<Output> {
        let mut second = bed.server.command("timeout")?;
        second.args(["20", PROGRAM, "run", "--no-allow-ssh", "--iface", SERVER_INTERFACE, "--pin-root"]);
        Ok(second.arg(&pins).output()?)
    };
    // While the first is stopped it cannot put the file back.
    kill(Pid::from_raw(first.id() as i32), Signal::SIGSTOP)?;
    let takes: [&dyn Fn() -> Result<()>; 3] =
        [&|| Ok(fs::remove_file(&lock)?), &|| Ok(fs::write(&lock, "1")?), &|| {
            Ok(fs::remove_dir_all(&directory)?)
        }];
    for take in takes {
        take()?;
        let output = second()?;
        assert!(complaint(&output).contains(&format!("process {}", first.id())), "{}", complaint(&output));
        assert_eq!(output.status.code(), Some(1));
    }
    kill(Pid::from_raw(first.id() as i32), Signal::SIGCONT)?;
    eventually("the lock is there again", || {
        Ok(fs::read_to_string(&lock).is_ok_and(|text| text == first.id().to_string()))
    })?;
    assert_eq!(status(&first)?["controller"], first.id());

    // Someone removes everything that can be removed, and starts another at once. What the first holds open stays attached,
    // so the second finds the interface taken.
    kill(Pid::from_raw(first.id() as i32), Signal::SIGSTOP)?;
    fs::remove_dir_all(&pins)?;
    fs::remove_dir_all(&directory)?;
    let output = second()?;
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    kill(Pid::from_raw(first.id() as i32), Signal::SIGCONT)?;
    eventually("the first has pinned all again", || Ok(pins.join("maps/CONFIG").exists()))?;
    assert_eq!(status(&first)?["controller"], first.id());
    connect(&bed, bed.fresh_client(bed.server_v4(80)), bed.server_v4(80))?;
    assert!(first.stop()?.success());
    assert!(!pins.exists() && !directory.exists());
    Ok(())
}
