#![no_main]

#[path = "../http1.rs"]
mod http1;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http1::fuzzing::wire_head(bytes));
