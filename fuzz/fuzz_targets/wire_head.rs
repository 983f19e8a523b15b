#![no_main]

#[path = "../../crates/meltemi-proxy/src/fuzzing/wire_head.rs"]
mod fuzzing;
#[path = "."]
mod http {
    #[path = "."]
    pub(crate) mod wire {
        #[path = "../../crates/meltemi-proxy/src/http/wire/http1.rs"]
        pub(crate) mod http1;
        #[path = "../../crates/meltemi-proxy/src/http/wire/patience.rs"]
        mod patience;
        #[path = "../../crates/meltemi-proxy/src/http/wire/state.rs"]
        mod state;

        pub(crate) use state::{Answer, Refusal, WireState};
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::wire_head(bytes));
