//! Reads access-log formats (Envoy "Command operators") and writes records in them.

mod parse;
mod render;

pub use parse::{FormatError, parse, request_headers, response_headers};
pub use render::{admits, render, render_pieces};

#[cfg(test)]
mod tests;
