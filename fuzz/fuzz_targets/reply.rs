#![no_main]

#[path = "../src/bytes.rs"]
mod bytes;
#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/reply.rs"]
mod reply;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reply::run(data));
