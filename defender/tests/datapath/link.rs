//! Ethernet: tags, addresses, padding, other protocols.

use anyhow::Result;
use defender_common::{
    abi::{Interface, MODE_AUTO},
    verdict::Reason,
};
use defender_testbed::{
    frame::{TcpFrame, flag},
    topology::{CLIENT_MAC, SERVER_MAC},
};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header};

use super::{
    expected::NegotiatedOptions,
    frames::{ISN, LINUX4, LINUX6, WINDOWS4, client4, server_of, stray, syn4, syn6},
    row::{Row, check, row},
    world::DUAL,
};

const CUSTOMER: u16 = 0x8100;
const PROVIDER: u16 = 0x88a8;

fn tags() -> Vec<Row> {
    let two = |row: Row| row.world(|world| world.interface.max_vlan_tags = 2);
    let none = |row: Row| row.world(|world| world.interface.max_vlan_tags = 0);
    vec![
        row("no tag", syn4()).challenged(LINUX4),
        row("no tag, IPv6", syn6()).challenged(LINUX6),
        none(row("no tag where none may be", syn4())).challenged(LINUX4),
        row("802.1Q", syn4().vlan(100)).challenged(LINUX4),
        row("802.1Q, IPv6", syn6().vlan(100)).challenged(LINUX6),
        row("802.1Q with priority and drop-eligible bits", syn4().vlan_tag(CUSTOMER, 0xf064))
            .challenged(LINUX4),
        row("802.1Q, id 0: priority only", syn4().vlan_tag(CUSTOMER, 0xa000)).challenged(LINUX4),
        row("802.1ad alone", syn4().vlan_tag(PROVIDER, 7)).challenged(LINUX4),
        none(row("802.1Q where none may be", syn4().vlan(100))).dropped(Reason::SynNestedVlan),
        two(row("802.1ad and 802.1Q", syn4().vlan_tag(PROVIDER, 0x2064).vlan(200))).challenged(LINUX4),
        two(row("802.1ad and 802.1Q, IPv6", syn6().vlan_tag(PROVIDER, 0x2064).vlan(200))).challenged(LINUX6),
        two(row("802.1Q twice", syn4().vlan(1).vlan(2))).challenged(LINUX4),
        row("two tags where one may be", syn4().vlan_tag(PROVIDER, 100).vlan(200))
            .dropped(Reason::SynNestedVlan),
        row("two tags where one may be, IPv6", syn6().vlan(100).vlan(200)).dropped(Reason::SynNestedVlan),
        row("no cookie below two tags where one may be", stray(client4(), flag::ACK).ack(1).vlan(1).vlan(2))
            .dropped(Reason::AckBadCookie),
        two(row("three tags are not followed", syn4().vlan(1).vlan(2).vlan(3))).passes(Reason::NotIp),
        row("a tag cut short", syn4().vlan(100).build()[..16].to_vec()).dropped(Reason::MalformedIp),
        row("a second tag cut short", syn4().vlan(1).vlan(2).build()[..20].to_vec())
            .dropped(Reason::MalformedIp),
    ]
}

fn addresses() -> Vec<Row> {
    let to = |mac: [u8; 6]| syn4().macs(CLIENT_MAC, mac);
    let from = |mac: [u8; 6]| syn4().macs(mac, SERVER_MAC);
    let mut last = SERVER_MAC;
    last[5] ^= 1;
    let mut first = SERVER_MAC;
    first[0] ^= 4;
    let mut middle = SERVER_MAC;
    middle[3] ^= 0x80;
    vec![
        row("broadcast", to([0xff; 6])).passes(Reason::OtherMac),
        row("multicast", to([0x01, 0, 0x5e, 0, 0, 1])).passes(Reason::OtherMac),
        row("another's MAC, last byte", to(last)).passes(Reason::OtherMac),
        row("another's MAC, first byte", to(first)).passes(Reason::OtherMac),
        row("another's MAC, middle byte", to(middle)).passes(Reason::OtherMac),
        row("from a group's MAC", from([0x01, 0, 0x5e, 0, 0, 1])).dropped(Reason::SynOddMac),
        row("from the broadcast MAC", from([0xff; 6])).dropped(Reason::SynOddMac),
        row("from the interface's own MAC", from(SERVER_MAC)).dropped(Reason::SynOddMac),
        row("from a group's MAC, IPv6", syn6().macs([0x33, 0x33, 0, 0, 0, 1], SERVER_MAC))
            .dropped(Reason::SynOddMac),
        row("from the interface's own MAC, IPv6, below a tag", syn6().macs(SERVER_MAC, SERVER_MAC).vlan(9))
            .dropped(Reason::SynOddMac),
        row("from a group's MAC, in calm", from([0xff; 6]))
            .world(|world| world.service().mode = MODE_AUTO)
            .passes(Reason::SynNotMitigating),
        row("from a MAC that differs from the interface's in its last byte", from(last)).challenged(LINUX4),
        row("another's MAC, IPv6", syn6().macs(CLIENT_MAC, [2; 6])).passes(Reason::OtherMac),
        row("another's MAC below a tag", to(last).vlan(9)).passes(Reason::OtherMac),
        row("another's MAC: not even a broken packet is dropped", {
            let mut frame = to(last).build();
            frame[14] = 0x44;
            frame
        })
        .passes(Reason::OtherMac),
        row("an interface whose MAC is all zero", to([0; 6]))
            .world(|world| world.interface.mac = 0)
            .challenged(LINUX4),
        row("an interface that is not defended", syn4())
            .world(|world| world.interface = Interface { ifindex: 9999, ..world.interface })
            .passes(Reason::OtherMac),
        row("an interface in the last of its slots", syn4())
            .world(|world| world.probe = 3)
            .challenged(LINUX4),
        row("an interface beyond its slots", syn4()).world(|world| world.probe = 4).passes(Reason::OtherMac),
    ]
}

/// Without options, as a scanner sends it: 54 bytes.
fn bare_syn() -> TcpFrame {
    let client = client4();
    TcpFrame::new(client, server_of(client, DUAL)).flags(flag::SYN).seq(ISN)
}

const BARE: NegotiatedOptions =
    NegotiatedOptions { index: 15, mss: 536, scale: None, sack: false, stamp: None, ecn: false };

fn lengths() -> Vec<Row> {
    vec![
        row("54 bytes: the reply is longer than the SYN", bare_syn()).challenged(BARE),
        row("54 bytes, padded to 60", bare_syn().trailer(6)).challenged(BARE),
        row("54 bytes, padded with rubbish", {
            let mut frame = bare_syn().trailer(6).build();
            frame[54..].fill(0xa5);
            frame
        })
        .challenged(BARE),
        row("an odd number of bytes behind the packet", bare_syn().trailer(5)).challenged(BARE),
        row("a long trailer", syn4().trailer(1000)).challenged(LINUX4),
        row("a Windows SYN with a trailer", {
            let client = client4();
            TcpFrame::windows_syn(client, server_of(client, DUAL), ISN).trailer(4)
        })
        .challenged(WINDOWS4),
        row("a padded ACK keeps its padding", stray(client4(), flag::ACK).ack(7).trailer(6))
            .dropped(Reason::AckBadCookie),
    ]
}

fn arp() -> Vec<u8> {
    let link = Ethernet2Header { source: CLIENT_MAC, destination: [0xff; 6], ether_type: EtherType::ARP };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &CLIENT_MAC,
        &[10, 203, 0, 1],
        &[0; 6],
        &[10, 203, 0, 2],
    )
    .expect("addresses have their lengths");
    let mut frame = link.to_bytes().to_vec();
    frame.extend(packet.to_bytes());
    frame.resize(60, 0);
    frame
}

fn others() -> Vec<Row> {
    let of_type = |ether_type: u16| {
        let mut frame = syn4().build();
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame
    };
    vec![
        row("ARP", arp()).passes(Reason::NotIp),
        row("LLDP", of_type(0x88cc)).passes(Reason::NotIp),
        row("MPLS", of_type(0x8847)).passes(Reason::NotIp),
        row("IEEE 802.3 length instead of a type", of_type(46)).passes(Reason::NotIp),
        row("nothing but an Ethernet header", of_type(0x88cc)[..14].to_vec()).passes(Reason::NotIp),
        row("IPv4 without any", of_type(0x0800)[..14].to_vec()).dropped(Reason::MalformedIp),
        row("IPv6 without any", of_type(0x86dd)[..14].to_vec()).dropped(Reason::MalformedIp),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    [tags(), addresses(), lengths(), others()].into_iter().flatten().collect()
}

#[test]
fn ethernet() -> Result<()> {
    check(&rows())
}
