//! The fuzz target `syn_ack`; its body is in the library.

#![no_main]

#[path = "../src/bytes.rs"]
mod bytes;
#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/syn_ack.rs"]
mod syn_ack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| syn_ack::run(data));
