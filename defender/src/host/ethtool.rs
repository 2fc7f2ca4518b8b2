//! What an interface's driver reports through ethtool's ioctl. The driver's name has no other source in a
//! network namespace whose `/sys` belongs to another one. All `unsafe` of this module is in [`call`].

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

// include/uapi/linux/ethtool.h
const GET_DRIVER_INFO: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
const GET_STRING_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const GET_LINK_SETTINGS: u32 = 0x4c;
/// `ETH_SS_STATS`: the set of strings that names the statistics.
const STATISTIC_NAMES: u32 = 1;
/// `ETH_SS_FEATURES`: the set of strings that names the features.
const FEATURE_NAMES: u32 = 4;
/// Length of `struct ethtool_drvinfo`, in words.
const DRIVER_INFO_WORDS: usize = 49;
/// Length of a name (`ETH_GSTRING_LEN`) and of the driver's name, in words.
const NAME_WORDS: usize = 8;
/// Length of `struct ethtool_link_settings` without masks, in words.
const LINK_SETTINGS_WORDS: usize = 12;
/// `struct ethtool_get_features_block`: available, requested, active, never changed; a bit each of 32 features.
const FEATURE_BLOCK_WORDS: usize = 4;
/// Room for statistics that appear between two calls, in words.
const MORE_STATISTICS: usize = 4096;

/// The driver's name, or `None` if it does not report one.
pub(super) fn driver(interface: &str) -> Result<Option<String>> {
    let mut words = [0; DRIVER_INFO_WORDS];
    words[0] = GET_DRIVER_INFO;
    match call(interface, &mut words) {
        Ok(()) => Ok(Some(text(&words[1..1 + NAME_WORDS])).filter(|name| !name.is_empty())),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot ask for the driver of {interface}")),
    }
}

/// The link's speed in Mbit/s. `None` if the link is down or has no speed.
pub(super) fn speed(interface: &str) -> Option<u32> {
    // When given no room for the mode masks, the kernel answers with the needed size as a negative number.
    let mut words = [0; LINK_SETTINGS_WORDS];
    words[0] = GET_LINK_SETTINGS;
    call(interface, &mut words).ok()?;
    let mask_words = (words[3].to_ne_bytes()[3] as i8).unsigned_abs();
    let mut words = vec![0; LINK_SETTINGS_WORDS + 3 * usize::from(mask_words)];
    words[0] = GET_LINK_SETTINGS;
    words[3] = u32::from_ne_bytes([0, 0, 0, mask_words]);
    call(interface, &mut words).ok()?;
    // SPEED_UNKNOWN is -1.
    Some(words[1]).filter(|speed| !matches!(*speed, 0 | u32::MAX))
}

/// The enabled offloads, by the kernel's names as `ethtool -k` uses them (`net/ethtool/common.c`,
/// `netdev_features_strings`).
pub(super) fn active_features(interface: &str) -> Result<Vec<String>> {
    features(interface).with_context(|| format!("cannot ask for the offloads of {interface}"))
}

fn features(interface: &str) -> io::Result<Vec<String>> {
    let names = names(interface, FEATURE_NAMES)?;
    let blocks = names.len().div_ceil(32);
    let mut words = vec![0; 2 + blocks * FEATURE_BLOCK_WORDS];
    words[0] = GET_FEATURES;
    words[1] = blocks as u32;
    call(interface, &mut words)?;
    let active = |bit: usize| words[2 + bit / 32 * FEATURE_BLOCK_WORDS + 2] >> (bit % 32) & 1 == 1;
    Ok(names.into_iter().enumerate().filter(|(bit, _)| active(*bit)).map(|(_, name)| name).collect())
}

/// The driver's own statistics, as `ethtool -S` shows them. Empty where it has none.
pub(super) fn statistics(interface: &str) -> Result<Vec<(String, u64)>> {
    match read_statistics(interface) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => Ok(Vec::new()),
        read => read.with_context(|| format!("cannot ask for the statistics of {interface}")),
    }
}

fn read_statistics(interface: &str) -> io::Result<Vec<(String, u64)>> {
    let names = names(interface, STATISTIC_NAMES)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // The kernel writes as many as there are now, whatever it was told (`ethtool_get_stats`, net/ethtool/ioctl.c). Where
    // queues have come since, there is room for theirs, and which value has which name is not known.
    let mut words = vec![0; 2 + 4 * names.len() + MORE_STATISTICS];
    words[0] = GET_STATISTICS;
    call(interface, &mut words)?;
    if words[1] as usize != names.len() {
        return Ok(Vec::new());
    }
    let values = words[2..].chunks_exact(2).map(|value| u64::from_ne_bytes(bytes(value)));
    Ok(names.into_iter().zip(values).collect())
}

/// Two words as they are in memory.
fn bytes(words: &[u32]) -> [u8; 8] {
    let [[a, b, c, d], [e, f, g, h]] = [words[0].to_ne_bytes(), words[1].to_ne_bytes()];
    [a, b, c, d, e, f, g, h]
}

fn names(interface: &str, set: u32) -> io::Result<Vec<String>> {
    // Command, reserved, 64-bit mask of sets, size of the one set.
    let mut info = [0_u32; 5];
    info[0] = GET_STRING_SET_INFO;
    let [low, high] = halves(1 << set);
    info[2] = low;
    info[3] = high;
    call(interface, &mut info)?;
    let count = info[4] as usize;

    let mut strings = vec![0; 3 + count * NAME_WORDS];
    strings[0] = GET_STRINGS;
    strings[1] = set;
    strings[2] = count as u32;
    call(interface, &mut strings)?;
    Ok(strings[3..].chunks_exact(NAME_WORDS).map(text).collect())
}

/// A 64-bit number as two words in memory order.
fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// A zero-padded string stored as words.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).chain([0]).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Runs an ethtool command on an interface of the calling thread's network namespace. `words` holds the
/// command and has room for the whole answer that its sizes request.
fn call(interface: &str, words: &mut [u32]) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let data = words.as_mut_ptr().cast();
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data } };
    // Any socket takes interface ioctls; this one needs no address family.
    let socket = Socket::new(NETLINK_ROUTE)?;
    // SAFETY: the name ends in a zero byte. `ifru_data` points to `words`, which stay mutably borrowed for
    // the whole call. The callers above set the size fields to match the room in `words`, and the kernel
    // writes no more than those sizes, or, of statistics, no more than twice as many as a moment ago.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
