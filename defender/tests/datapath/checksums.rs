//! TCP checksums: right, wrong, and left to the hardware.

use anyhow::Result;
use defender_common::{abi::INTERFACE_PARTIAL_CHECKSUMS, verdict::Reason};
use defender_testbed::frame::{Checksum, TcpFrame, flag};

use super::{
    frames::{ISN, LINUX4, LINUX6, WINDOWS4, client4, server_of, stray, syn4, syn6},
    row::{Row, check, row},
    world::DUAL,
};

pub(super) fn rows() -> Vec<Row> {
    use Checksum::{Exactly, Partial, Wrong};
    let partial = |row: Row| row.world(|world| world.interface.flags |= INTERFACE_PARTIAL_CHECKSUMS);
    let windows = || {
        let client = client4();
        TcpFrame::windows_syn(client, server_of(client, DUAL), ISN)
    };
    let corrupt = |byte: usize| {
        let mut frame = syn4().build();
        frame[byte] ^= 0x40;
        frame
    };
    vec![
        row("off by one", syn4().checksum(Wrong)).dropped(Reason::SynBadChecksum),
        row("off by one, IPv6", syn6().checksum(Wrong)).dropped(Reason::SynBadChecksum),
        row("off by one, Windows", windows().checksum(Wrong)).dropped(Reason::SynBadChecksum),
        row("off by one, a layout nobody knows", syn4().raw_options(&[1; 16]).checksum(Wrong))
            .dropped(Reason::SynBadChecksum),
        row("off by one, with data", syn4().payload(b"data").checksum(Wrong)).dropped(Reason::SynBadChecksum),
        row("zero, which UDP has for none", syn4().checksum(Exactly(0))).dropped(Reason::SynBadChecksum),
        row("all ones", syn4().checksum(Exactly(0xffff))).dropped(Reason::SynBadChecksum),
        row("a port changed on the way", corrupt(34)).dropped(Reason::SynBadChecksum),
        row("the sequence number changed on the way", corrupt(40)).dropped(Reason::SynBadChecksum),
        row("the window changed on the way", corrupt(49)).dropped(Reason::SynBadChecksum),
        row("the urgent pointer changed on the way", corrupt(52)).dropped(Reason::SynBadChecksum),
        row("an option changed on the way", corrupt(73)).dropped(Reason::SynBadChecksum),
        row("the source changed on the way", corrupt(28)).dropped(Reason::SynBadIpChecksum),
        row("partial where none is to be expected", syn4().checksum(Partial)).dropped(Reason::SynBadChecksum),
        row("partial where none is to be expected, IPv6", syn6().checksum(Partial))
            .dropped(Reason::SynBadChecksum),
        partial(row("partial", syn4().checksum(Partial))).challenged(LINUX4),
        partial(row("partial, IPv6", syn6().checksum(Partial))).challenged(LINUX6),
        partial(row("partial, Windows", windows().checksum(Partial))).challenged(WINDOWS4),
        partial(row("partial, with data", syn4().payload(b"odd").checksum(Partial))).challenged(LINUX4),
        partial(row("partial, below a tag", syn4().vlan(5).checksum(Partial))).challenged(LINUX4),
        partial(row("right where partial ones come too", syn4())).challenged(LINUX4),
        partial(row("off by one where partial ones come", syn4().checksum(Wrong)))
            .dropped(Reason::SynBadChecksum),
        partial(row("zero where partial ones come", syn4().checksum(Exactly(0))))
            .dropped(Reason::SynBadChecksum),
        partial(row("a port changed, where partial ones come", corrupt(34))).dropped(Reason::SynBadChecksum),
        row("an acknowledgement's is the kernel's to check", {
            stray(client4(), flag::ACK).ack(1).checksum(Wrong)
        })
        .dropped(Reason::AckBadCookie),
    ]
}

#[test]
fn tcp_checksums() -> Result<()> {
    check(&rows())
}
