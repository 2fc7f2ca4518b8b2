//! The interpreter that counts instructions (`defender_interpreter`) and the kernel make the same of a frame.

use anyhow::{Result, ensure};
use defender_common::{abi::program, verdict::Reason};
use defender_interpreter::{Owner, Program, World as Copied};
use defender_testbed::frame::{TcpFrame, flag};
use nix::time::{ClockId, clock_gettime};

use super::{
    bed::Bed,
    expected::NegotiatedOptions,
    frames::{LINUX4, LINUX6, client4, client6, proof, stray, syn4, syn6},
    row::hex,
    world::World,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_defender");
/// The clock stands for some milliseconds; both are to run in one of these.
const TRIES: u32 = 100;

fn frames() -> Vec<(&'static str, Vec<u8>, Reason)> {
    let world = World::default();
    let cookie = |client, negotiated: &NegotiatedOptions| proof(&world, client, 0, negotiated).build();
    let forged = |client| stray(client, flag::ACK).build();
    vec![
        ("SYN", syn4().build(), Reason::SynChallenged),
        ("SYN, IPv6", syn6().build(), Reason::SynChallenged),
        ("SYN below a tag", syn4().vlan(7).build(), Reason::SynChallenged),
        ("SYN with few options", syn4().raw_options(&[2, 4, 5, 0xb4]).build(), Reason::SynChallenged),
        ("cookie", cookie(client4(), &LINUX4), Reason::Cookie),
        ("cookie, IPv6", cookie(client6(), &LINUX6), Reason::Cookie),
        ("forged ACK", forged(client4()), Reason::AckBadCookie),
        ("forged ACK, IPv6", forged(client6()), Reason::AckBadCookie),
        ("UDP", udp(&syn4()), Reason::NotTcp),
    ]
}

fn udp(frame: &TcpFrame) -> Vec<u8> {
    let mut frame = frame.build();
    frame[23] = 17;
    frame
}

#[test]
fn what_is_interpreted_is_what_the_kernel_runs() -> Result<()> {
    let mut bed = Bed::new()?;
    let program = Program::in_binary(PROGRAM.as_ref())?;
    for (what, frame, reason) in frames() {
        compare(&mut bed, &program, what, &frame, reason)?;
    }
    Ok(())
}

fn compare(bed: &mut Bed, program: &Program, what: &str, frame: &[u8], reason: Reason) -> Result<()> {
    for _ in 0..TRIES {
        bed.enter(&World::default())?;
        let copied = Copied::copy(program, &bed.pinned_maps(), bed.ifindex())?;
        let begun = now()?;
        let mut copied = copied.at(begun);
        let ours = copied.run(program, program::XDP, frame)?;
        let kernels = bed.run(frame)?;
        if now()? != begun {
            continue;
        }
        ensure!(ours.action == kernels.action, "{what}: {} instead of {}", ours.action, kernels.action);
        ensure!(ours.out == kernels.out, "{what}: {} instead of {}", hex(&ours.out), hex(&kernels.out));
        assert_eq!(ours.reason, Some(reason), "{what}");
        assert_eq!(kernels.counted, [(reason, 1)], "{what}");
        assert!(ours.lines.iter().any(|line| line.owner == Owner::Packet), "{what}");
        assert!(ours.instructions() > ours.count.instructions, "{what}");
        return Ok(());
    }
    panic!("{what}: the clock does not stand still");
}

/// The datapath's clock.
fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(std::time::Duration::from(now).as_nanos() as u64)
}
