//! HTTP/1.x on a connection (RFC 9112), as server and as client.
//!
//! A connection has no task of its own: whoever needs its next byte reads or writes it. The downstream's end is served by
//! one task ([`Server`]), which awaits the answer and writes it; the upstream's end ([`Client`]) is read and written in that
//! same task. A [`Body`] shares its connection with these, and is read straight from it.
//!
//! ```text
//! Stream (bytes in, bytes out, how the body being read is framed)
//!   |-- head: bytes -> request | response        decode: bytes -> content, trailers
//!   |-- encode: head, content -> bytes           send: a message's head and body -> Stream
//!   `-- Server, Client, Body, Tunnel: who holds it
//! ```

mod body;
mod client;
mod date;
mod decode;
mod encode;
mod error;
mod head;
mod names;
mod send;
mod server;
mod stream;
mod tunnel;

pub(crate) use body::Body;
pub(crate) use client::{Client, ClientOptions};
pub(crate) use error::Error;
pub(crate) use server::{After, BrokenBody, Next, Server, ServerOptions};
pub(crate) use tunnel::{OnTunnel, Tunnel};

/// Bytes of a body's trailers.
const MAX_TRAILER_BYTES: usize = 60 * 1024;

#[cfg(test)]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
