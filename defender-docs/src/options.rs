//! `options-kept.md`, from the profiles that a cookie can name.

use defender_common::{
    profile::{self, PROFILES},
    wire::options::NO_WINDOW_SCALE,
};

use crate::markdown::{head, table};

/// Larger than any size in the tables, and a scale that none of them names: they stand for the host's own.
const INTERFACE: u16 = 9000;
const HOST: u8 = 13;

const INTRODUCTION: &str = "\
A cookie has room for an index, not for the options themselves. So a challenged connection keeps what this page says. Options are
answered only if the client offered them and this host's sysctls allow them. ECN is allowed by any `tcp_ecn` but 0; a client that
offers accurate ECN gets classic ECN.

## Clients with timestamps

Linux, Android, macOS, iOS and the BSDs. Window scale, SACK, timestamps and ECN are kept exactly. The client's MSS is rounded down
to the next of these values; one below the first counts as the first, as in the kernel's own cookies. On an MTU of 1500, no MSS of
1200 or more loses more than 4 %.
";

const BETWEEN: &str = "
Where the interface's is 1460 or less, 1440 takes the place of 1460. With jumbo frames at the server, clients between 1460 and the
interface's MSS lose more: an MSS of 8,000 becomes 1460.

## Clients without timestamps

Windows as it is shipped. The set of options is rounded to one of 16 profiles, never to more than was offered; only an MSS below
536 (IPv4) or 1220 (IPv6) is raised. Among the profiles that fit, window scaling counts most, then SACK, then the larger MSS, then
the larger scale. A scale is lowered by two steps at most; where none fits, the connection does not scale windows in either
direction. ECN is not kept. What Windows offers (scale 8, SACK) loses no more than 4 % of an MSS of 1200 or more.
";

const AFTER: &str = "
“interface” is the MSS of the interface's MTU; larger values are cut to it. “host” is the scale that this host itself offers.

For example, with an MTU of 1500 and a host scale of 10:

| a client without timestamps offers | and keeps |
|---|---|
| MSS 1460, scale 8, SACK (Windows 10 and 11) | all of it |
| MSS 1452, scale 8, SACK | MSS 1402, scale 8, SACK |
| MSS 1460, scale 9, SACK | MSS 1460, scale 8, SACK |
| MSS 1460, scale 5, SACK | MSS 1460, no scaling, SACK |
| MSS 1400, scale 7, SACK | MSS 1300, no scaling, SACK |
";

/// The page.
pub(crate) fn page() -> String {
    let sizes: Vec<_> =
        ["IPv4", "IPv6"].iter().enumerate().map(|(family, name)| sizes(family, name)).collect();
    let profiles: Vec<_> = (0..PROFILES as u8).map(row).collect();
    head("Options kept", INTRODUCTION)
        + &table(["", "MSS values"], &sizes)
        + BETWEEN
        + &table(["profile", "MSS, IPv4", "MSS, IPv6", "client's window scale", "SACK"], &profiles)
        + AFTER
}

fn sizes(family: usize, name: &str) -> [String; 2] {
    let values: Vec<_> =
        (0..profile::INTERFACE_MSS).map(|index| profile::mss(family, index, INTERFACE).to_string()).collect();
    [name.to_owned(), format!("{}, the interface's", values.join(", "))]
}

fn row(index: u8) -> [String; 5] {
    let [v4, v6] = [0, 1].map(|family| profile::get(family, index, INTERFACE, HOST));
    let mss = |mss: u16| if mss == INTERFACE { "interface".to_owned() } else { mss.to_string() };
    let scale = match v4.window_scale {
        HOST => "host".to_owned(),
        NO_WINDOW_SCALE => "none".to_owned(),
        scale => scale.to_string(),
    };
    let sack = if v4.sack { "yes" } else { "no" };
    [index.to_string(), mss(v4.mss), mss(v6.mss), scale, sack.to_owned()]
}
