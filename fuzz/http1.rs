//! The part of the proxy's HTTP/1 that needs no connection.

#[path = "../crates/meltemi-proxy/src/http1/decode.rs"]
mod decode;
#[path = "../crates/meltemi-proxy/src/http1/error.rs"]
mod error;
#[path = "../crates/meltemi-proxy/src/http1/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../crates/meltemi-proxy/src/http1/head.rs"]
mod head;
#[path = "../crates/meltemi-proxy/src/http1/names.rs"]
mod names;

const MAX_TRAILER_BYTES: usize = 60 * 1024;
