//! The fuzz target `parse`; its body is in the library.

#![no_main]

#[path = "../src/frame.rs"]
mod frame;
#[path = "../src/parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| parse::run(data));
