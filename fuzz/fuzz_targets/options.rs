//! The fuzz target `options`; its body is in the library.

#![no_main]

#[path = "../src/bytes.rs"]
mod bytes;
#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/options.rs"]
mod options;

libfuzzer_sys::fuzz_target!(|data: &[u8]| options::run(data));
