#![no_main]

#[path = "../../crates/meltemi-proxy/src/fuzzing/chunked_body.rs"]
mod fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::chunked_body(bytes));
