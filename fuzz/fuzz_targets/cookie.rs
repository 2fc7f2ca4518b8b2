//! The fuzz target `cookie`; its body is in the library.

#![no_main]

#[path = "../src/bytes.rs"]
mod bytes;
#[path = "../src/cookie.rs"]
mod cookie;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cookie::run(data));
