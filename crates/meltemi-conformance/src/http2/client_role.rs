//! The proxy as a client: we are its upstream, which has just got a request on stream 1.

mod errors;
mod messages;
mod sound;
use super::expect::Expect::{self, Connection, Malformed, Stream};
use super::frame::{
    block, code, continuation, data, flag, frame, goaway, headers, kind, literal, ping, priority,
    rst_stream, setting, settings, window_update,
};

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const ANY: &[u32] = &[
    code::PROTOCOL_ERROR,
    code::INTERNAL_ERROR,
    code::STREAM_CLOSED,
    code::CANCEL,
    code::NO_ERROR,
    code::ENHANCE_YOUR_CALM,
];

/// What the downstream must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Downstream {
    /// The whole answer.
    Answer,
    /// Anything but a whole answer with 200.
    Failure,
    /// The error came behind the answer, or beside it.
    Either,
}

/// A behaviour of the proxy as a client.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) id: &'static str,
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    pub(super) method: &'static str,
    pub(super) settings: Vec<(u16, u32)>,
    pub(super) bytes: Vec<u8>,
    /// What the upstream must hear; `None` leaves it open.
    pub(super) expect: Option<Expect>,
    pub(super) downstream: Downstream,
    /// See [`crate::report::Case::known`].
    pub(super) known: Option<&'static str>,
}

impl Reply {
    fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn with_settings(mut self, values: &[(u16, u32)]) -> Self {
        self.settings = values.to_vec();
        self
    }
}

fn reply<const N: usize>(
    id: &'static str,
    section: &'static str,
    what: &'static str,
    expect: Option<Expect>,
    downstream: Downstream,
    frames: [Vec<u8>; N],
) -> Reply {
    Reply {
        id,
        section,
        what,
        method: "GET",
        settings: Vec::new(),
        bytes: frames.concat(),
        expect,
        downstream,
        known: known(id),
    }
}

/// What the h2 library does not look at.
fn known(id: &str) -> Option<&'static str> {
    match id {
        "client/6.5.2/1" => Some(
            "the h2 library takes the setting of a server as it would of a client; pushes stay refused",
        ),
        "client/6.9.1/2" => Some(
            "the h2 library ignores the window of a stream on which it has nothing more to send",
        ),
        "client/8.3/1" | "client/8.1/4" => {
            Some("the h2 library drops such pseudo-header fields; nothing of them is passed on")
        }
        _ => None,
    }
}

/// `:status: 200`, entry 8 of the static table.
const OK: &[u8] = &[0x88];

fn ok(flags: u8) -> Vec<u8> {
    headers(1, flags, OK)
}

fn ok_with(more: &[(&str, &str)]) -> Vec<u8> {
    headers(1, 0, &[OK, &block(more)].concat())
}

fn end(content: &[u8]) -> Vec<u8> {
    data(1, flag::END_STREAM, content)
}

pub(super) fn replies() -> Vec<Reply> {
    let mut all = sound::sound();
    all.extend(errors::connection_errors());
    all.extend(errors::settings_errors());
    all.extend(errors::stream_errors());
    all.extend(messages::malformed());
    all.extend(messages::hostile());
    all
}
