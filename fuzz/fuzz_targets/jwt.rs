#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meltemi_proxy_core::fuzzing::jwt(bytes));
