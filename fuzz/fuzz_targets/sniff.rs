#![no_main]

#[path = "../../crates/meltemi-proxy/src/fuzzing/sniff.rs"]
mod fuzzing;
#[path = "."]
mod listener {
    #[path = "../../crates/meltemi-proxy/src/listener/inspect.rs"]
    pub(crate) mod inspect;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::sniff(bytes));
