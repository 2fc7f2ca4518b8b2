//! The fuzz target `files` with damaged files: a smoke test that needs neither cargo-fuzz nor a nightly compiler.

#[path = "../../fuzz/src/files.rs"]
mod files;

/// What is damaged, after the byte that says which file it is.
const FILES: [(u8, &str); 8] = [
    (
        0,
        "mode = \"auto\"\nports = [22, 443]\ncritical = \"80%\"\nmin_active = \"60\"\nallow = [\"192.0.2.0/24\", { prefix = \"192.0.2.7\", comment = \"a\", expires = 2026-01-31T12:00:00Z }]\n[port.443]\nmode = \"always\"\n",
    ),
    (1, "{\"set\":{\"mode\":\"auto\",\"443.mode\":\"always\"},\"ports\":[80]}"),
    (2, "{\"unprotectable\":{\"1\":\"it is MPTCP\"},\"attacks\":{},\"inputs\":{},\"warnings\":[\"a\"]}"),
    (3, "{\"[::]:80\":{}}"),
    (4, "{\"version\":1,\"time\":\"2026-01-01T00:00:00Z\",\"event\":\"began\",\"port\":80}"),
    (4, ""),
    (5, "# ours\n192.0.2.0/24 # a \"host\"\n\n  2001:db8::7\r\n192.0.2.0/24\n"),
    (6, "{\"192.0.2.0/24\":{\"comment\":\"a\",\"expires\":7},\"2001:db8::7\":{\"expires\":8}}"),
];

/// What takes the place of a byte.
const BYTES: [u8; 8] = [0, b'"', b'{', b'[', b'0', b'-', b'=', 0xff];

#[test]
fn every_byte_damaged_lost_or_the_last() {
    for (which, text) in FILES {
        let whole: Vec<u8> = [&[which], text.as_bytes()].concat();
        files::run(&whole);
        for at in 0..whole.len() {
            files::run(&whole[..at]);
            files::run(&[&whole[..at], &whole[at + 1..]].concat());
            for byte in BYTES {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                files::run(&damaged);
            }
        }
    }
}
