//! Nobody reads what is told, or there is no room for it: the defence goes on.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::{
    harness::{PATIENCE, connect, eventually, scripted_client::Wire},
    operator::bed::{PORT, Running, attack, serve, succeeded, topology, wait},
};

/// What standard error is: something to give to the defender, and something to keep while it runs.
type Sink = fn() -> Result<(Stdio, Option<OwnedFd>)>;

const SINKS: [(&str, Sink); 5] = [
    ("a pipe that nobody reads any more", || {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        Ok((writer.into(), None))
    }),
    ("a full disk", || Ok((File::options().write(true).open("/dev/full")?.into(), None))),
    ("a full pipe that nobody reads", || {
        let (reader, writer) = full_pipe()?;
        Ok((writer.into(), Some(reader.into())))
    }),
    ("the same, and writing does not wait", || {
        let (reader, writer) = full_pipe()?;
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((writer.into(), Some(reader.into())))
    }),
    ("a full socket that nobody reads", || {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        while (&writer).write(&[b'x'; 4096]).is_ok() {}
        writer.set_nonblocking(false)?;
        Ok((OwnedFd::from(writer).into(), Some(reader.into())))
    }),
];

fn full_pipe() -> Result<(io::PipeReader, io::PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(4096))?;
    writer.write_all(&[b'x'; 4096])?;
    Ok((reader, writer))
}

#[test]
fn an_attack_is_told_to_nobody() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    let address = bed.server_v4(PORT);
    for (name, sink) in SINKS {
        let _server = serve(&bed, address)?;
        let (stderr, _kept) = sink()?;
        let mut defender = Running::start(&bed, &["--mode", "auto"], |command| {
            command.stderr(stderr).env("DEFENDER_LOG", "debug");
        })
        .context(name)?;
        goes_on(&bed, &wire, &mut defender, address).context(name)?;
    }
    Ok(())
}

/// `events` would show nothing: `status` says why.
#[test]
fn an_attack_that_cannot_be_saved_is_a_warning() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let defender = Running::start(&bed, &["--mode", "auto"], |command| {
        // Nobody can make a directory there.
        command.env("DEFENDER_STATE_DIR", "/proc/defender");
    })?;
    defender.wait_for_listener(PORT)?;
    let warned = || -> Result<bool> {
        let status = defender.ask(&["status"])?;
        Ok(String::from_utf8_lossy(&status.stdout).contains("events are not saved: "))
    };
    ensure!(!warned()?, "nothing was to be saved yet");
    attack(&wire, address)?;
    eventually("status says that events are not saved", warned)
}

/// Without any standard descriptors.
#[test]
fn standard_descriptors_are_closed() -> Result<()> {
    let bed = topology()?;
    let wire = Wire::new(&bed)?;
    let address = bed.server_v4(PORT);
    let _server = serve(&bed, address)?;
    let mut defender = Running::start(&bed, &["--mode", "auto"], |command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let (program, environment): (_, Vec<_>) = (
            command.get_program().to_owned(),
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
        );
        let mut closed = bed.server.command("sh").expect("a shell");
        closed.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]).arg(program).args(arguments).envs(environment);
        *command = closed;
    })?;
    goes_on(&bed, &wire, &mut defender, address)
}

/// An attack is noticed, listeners are found, settings change, and it ends in order.
fn goes_on(
    bed: &defender_testbed::topology::Topology,
    wire: &Wire<'_>,
    defender: &mut Running<'_>,
    address: std::net::SocketAddr,
) -> Result<()> {
    defender.wait_for_listener(PORT)?;
    attack(wire, address)?;
    eventually("the attack is kept", || {
        ensure!(defender.is_alive()?, "it has ended");
        Ok(!defender.events()?.is_empty())
    })?;
    connect(bed, bed.fresh_client(address), address)?;
    let _other = serve(bed, bed.server_v4(PORT + 1))?;
    defender.wait_for_listener(PORT + 1)?;
    succeeded(&defender.ask(&["set", "81.mode", "always"])?)?;
    ensure!(defender.is_alive()?, "it has ended");
    ensure!(defender.stop()?.success(), "it ends out of order");
    Ok(())
}

/// Who follows events or watches counters ends when the reader goes.
#[test]
fn readers_go() -> Result<()> {
    let bed = topology()?;
    let _server = serve(&bed, bed.server_v4(PORT))?;
    let defender = Running::start(&bed, &[], |_: &mut Command| {})?;
    for arguments in [
        &["stats", "--watch", "1"][..],
        &["stats", "--watch", "3600"],
        &["events", "--follow"],
        &["events", "--follow", "--text"],
    ] {
        let mut command = defender.command(arguments)?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no pipe")?;
        if arguments[0] == "stats" {
            BufReader::new(output).read_line(&mut String::new())?;
        } else {
            drop(output);
        }
        ensure!(wait(&mut child, PATIENCE).with_context(|| arguments.join(" "))?.success());
        let complaint = io::read_to_string(child.stderr.take().context("no pipe")?)?;
        ensure!(complaint.is_empty(), "{}: {complaint}", arguments.join(" "));
    }
    for arguments in [&["status"][..], &["stats"], &["conns"], &["get"], &["status", "--json"], &["doctor"]] {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        let mut child = defender.command(arguments)?.stdout(writer).stderr(Stdio::piped()).spawn()?;
        let status = wait(&mut child, PATIENCE)?;
        let complaint = io::read_to_string(child.stderr.take().context("no pipe")?)?;
        ensure!(status.code().is_some_and(|code| code <= 1), "{}: {status}", arguments.join(" "));
        ensure!(complaint.is_empty(), "{}: {complaint}", arguments.join(" "));
    }
    Ok(())
}
