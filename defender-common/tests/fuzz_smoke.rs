//! The fuzz targets (`fuzz/`) with pseudo-random inputs: a smoke test that needs neither cargo-fuzz nor a nightly compiler.

#[path = "../../fuzz/src/bytes.rs"]
mod bytes;
#[path = "../../fuzz/src/cookie.rs"]
mod cookie;
#[path = "../../fuzz/src/frame.rs"]
mod frame;
#[path = "../../fuzz/src/options.rs"]
mod options;
#[path = "../../fuzz/src/parse.rs"]
mod parse;
#[path = "../../fuzz/src/syn_ack.rs"]
mod syn_ack;

const RUNS: u64 = 50_000;

/// The same inputs every time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn input(&mut self) -> Vec<u8> {
        let len = self.next() % 160;
        // Small values and extremes are where mistakes are: half of the inputs have more of them.
        let plain = self.next() & 1 == 0;
        let byte = |random: &mut Self| match random.next().to_le_bytes() {
            [byte, _, ..] if plain => byte,
            [byte, 0..128, ..] => byte,
            [_, kind, ..] => [0, 1, 2, 3, 4, 8, 10, 0xff][usize::from(kind) % 8],
        };
        (0..len).map(|_| byte(self)).collect()
    }
}

fn feed(run: fn(&[u8])) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    run(&[]);
    for _ in 0..RUNS {
        run(&random.input());
    }
}

#[test]
fn parse() {
    feed(parse::run);
}

#[test]
fn options() {
    feed(options::run);
}

#[test]
fn cookie() {
    feed(cookie::run);
}

#[test]
fn syn_ack() {
    feed(syn_ack::run);
}
