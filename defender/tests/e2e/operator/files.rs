//! Files that somebody names: whatever they are, they neither hang who reads them nor are they printed.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    harness::process::Scratch,
    operator::bed::{PORT, Running, output, serve, succeeded, topology},
};

/// What nobody is to see.
const SECRET: &str = "$6$rounds=5000$abcdef";
/// Who takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files that hold no prefixes, and what is said of each.
fn foreign(scratch: &Scratch) -> Result<Vec<(PathBuf, &'static str)>> {
    let lines = format!("# users\nroot:{SECRET}:19000:0:99999:7:::\n");
    let shadow = scratch.write("shadow", &lines)?;
    let prefix = scratch.write("prefix", format!("192.0.2.1\n192.0.2.2/{SECRET}\n"))?;
    let binary = scratch.write("binary", [lines.as_bytes(), &[0xff, 0xfe]].concat())?;
    let long = scratch.write("long", SECRET.repeat(100_000))?;
    let lines = scratch.write("lines", "\n".repeat(5_000_000))?;
    let sparse = scratch.path("sparse");
    File::create(&sparse)?.set_len(1 << 36)?;
    let fifo = scratch.path("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(vec![
        (shadow, "shadow:2:1: "),
        (prefix, "prefix:2:1: "),
        (binary, "not UTF-8"),
        (long, "long:1:1: "),
        (lines, "lines"),
        (sparse, "bytes"),
        (fifo, "not a regular file"),
        (scratch.path(""), "not a regular file"),
        ("/dev/zero".into(), "not a regular file"),
        ("/dev/tty".into(), "not a regular file"),
        (scratch.path("missing"), "No such file"),
    ])
}

/// The command with a bound of its memory: one that reads all of a device must not take the machine's.
fn bounded(command: &Command) -> Result<Command> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(std::process::Stdio::null());
    Ok(shell)
}

fn is_refused(command: &Command, path: &Path, expected: &str) -> Result<()> {
    let told = output(bounded(command)?, PATIENCE)?;
    let text = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    ensure!(told.status.code() == Some(1), "{}: {}, {text}", path.display(), told.status);
    ensure!(text.lines().count() == 1 && text.len() < 400, "{}: {text}", path.display());
    ensure!(text.contains(expected), "{}: {text}", path.display());
    ensure!(!text.contains("$6$") && !text.contains("root"), "it is printed: {text}");
    Ok(())
}

#[test]
fn foreign_files_are_refused_and_not_printed() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    let defender = Running::start(&bed, &[], |_| {})?;
    let scratch = Scratch::new()?;
    for (path, expected) in foreign(&scratch)? {
        let name = path.display().to_string();
        for list in ["allow", "deny"] {
            let add = defender.command(&[list, "add", "--file", &name])?;
            is_refused(&add, &path, expected)?;
            let config = scratch.write("config.toml", format!("{list}_file = \"{name}\"\n"))?;
            let check = defender.command(&["config", "check", &config.display().to_string()])?;
            is_refused(&check, &path, expected)?;
        }
        if expected.contains("regular") || expected == "bytes" {
            is_refused(&defender.command(&["config", "check", &name])?, &path, expected)?;
        }
        let listed =
            succeeded(&defender.ask(&["allow", "list"])?)? + &succeeded(&defender.ask(&["deny", "list"])?)?;
        ensure!(!listed.contains("192.0.2.1"), "{name} is on a list in part: {listed}");
    }
    let good = scratch.write("good", "# ours\n192.0.2.1\n")?;
    std::os::unix::fs::symlink(&good, scratch.path("link"))?;
    succeeded(&defender.ask(&["allow", "add", "--file", &scratch.path("link").display().to_string()])?)?;
    ensure!(succeeded(&defender.ask(&["allow", "list"])?)?.contains("192.0.2.1"));
    Ok(())
}

/// Whatever `config check` says of a file, `run` says.
#[test]
fn what_is_checked_is_what_runs() -> Result<()> {
    let bed = topology()?;
    let scratch = Scratch::new()?;
    let list = scratch.write("list", "192.0.2.0/24\n")?;
    let list = list.display();
    for text in [
        "mode = \"sometimes\"\n".to_owned(),
        "unknown = 1\n".to_owned(),
        "[port.0]\nmode = \"off\"\n".to_owned(),
        "[port.80]\nallow = []\n".to_owned(),
        "start = \"80%\"\ncritical = \"20%\"\n".to_owned(),
        "[port.80]\nstart = \"80%\"\ncritical = \"20%\"\n".to_owned(),
        "allow = [\"192.0.2.1/24\"]\n".to_owned(),
        "allow = [\"192.0.2.1\"]\ndeny = [\"192.0.2.1\"]\n".to_owned(),
        format!("allow_file = \"{list}\"\ndeny = [\"192.0.2.0/24\"]\n"),
        "deny_file = \"missing\"\n".to_owned(),
        "= 3\n".to_owned(),
        "reply_budget = -1\n".to_owned(),
    ] {
        let config = scratch.write("config.toml", &text)?;
        // From elsewhere, by another name: what is said is the same.
        let say = |arguments: &[&str]| -> Result<_> {
            let mut command = bed.server.command(crate::harness::PROGRAM)?;
            command.args(arguments).current_dir(scratch.path(""));
            let told = output(command, PATIENCE)?;
            Ok((told.status.code(), String::from_utf8(told.stderr)?))
        };
        let pins = defender_testbed::controller::fresh_pin_root();
        let (pins, config) = (pins.display().to_string(), config.display().to_string());
        let run = ["run", "--iface", "srv0", "--no-allow-ssh", "--pin-root", &pins, "--config"];
        let said_by_run = say(&[&run[..], &["config.toml"]].concat())?;
        let said_by_check = say(&["config", "check", "config.toml"])?;
        ensure!(said_by_run.0 == Some(1) && said_by_run.1.lines().count() == 1, "{text}: {said_by_run:?}");
        assert_eq!(said_by_check, said_by_run, "{text}");
        assert_eq!(say(&["config", "check", &config])?, said_by_run, "{text}");
    }
    let good = scratch.write("config.toml", format!("mode = \"monitor\"\ndeny_file = \"{list}\"\n"))?;
    let good = good.display().to_string();
    let mut defender = Running::start(&bed, &["--config", &good], |_| {})?;
    ensure!(succeeded(&defender.ask(&["config", "check", &good])?)?.contains("is valid"));
    ensure!(defender.stop()?.success());
    Ok(())
}
