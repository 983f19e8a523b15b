//! The proxy as a client: we are its upstream, which has just got a request on stream 1.

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
    let mut all = sound();
    all.extend(connection_errors());
    all.extend(settings_errors());
    all.extend(stream_errors());
    all.extend(malformed());
    all.extend(hostile());
    all
}

fn sound() -> Vec<Reply> {
    use Downstream::Answer;
    let padded = [&[3][..], b"ok", &[0; 3]].concat();
    let good = |id, section, what, frames: Vec<Vec<u8>>| {
        reply(id, section, what, None, Answer, [frames.concat()])
    };
    vec![
        good(
            "client/ok/1",
            "9113 8.1",
            "an answer",
            vec![ok(0), end(b"ok")],
        ),
        good(
            "client/ok/2",
            "9113 8.1",
            "an answer without content",
            vec![ok(flag::END_STREAM)],
        ),
        good(
            "client/ok/3",
            "9113 8.1",
            "an answer with trailers",
            vec![
                ok(0),
                data(1, 0, b"ok"),
                headers(1, flag::END_STREAM, &block(&[("x-sum", "1")])),
            ],
        ),
        good(
            "client/ok/4",
            "9113 6.1",
            "DATA with padding",
            vec![ok(0), data(1, flag::END_STREAM | flag::PADDED, &padded)],
        ),
        good(
            "client/ok/5",
            "9113 6.10",
            "an answer's head in two frames",
            vec![
                frame(kind::HEADERS, 0, 1, OK),
                continuation(1, flag::END_HEADERS, &literal(b"x", b"y")),
                end(b"ok"),
            ],
        ),
        good(
            "client/ok/6",
            "9113 8.1",
            "interim answers first",
            vec![
                headers(1, 0, &block(&[(":status", "103"), ("link", "</s>")])),
                ok(0),
                end(b"ok"),
            ],
        ),
        good(
            "client/ok/7",
            "9113 5.5",
            "extension frames between",
            vec![
                frame(0x77, 0, 0, b"x"),
                ok(0),
                frame(0x77, 0, 1, b"x"),
                end(b"ok"),
            ],
        ),
        good(
            "client/ok/8",
            "9113 6.3",
            "PRIORITY between",
            vec![ok(0), priority(1, 0, 1), end(b"ok")],
        ),
        good(
            "client/ok/9",
            "9113 6.5",
            "SETTINGS between",
            vec![
                ok(0),
                settings(&[(setting::MAX_CONCURRENT_STREAMS, 5), (0xff, 1)]),
                end(b"ok"),
            ],
        ),
        good(
            "client/ok/10",
            "9113 8.1",
            "RST_STREAM NO_ERROR behind the answer",
            vec![ok(0), end(b"ok"), rst_stream(1, code::NO_ERROR)],
        ),
        good(
            "client/ok/11",
            "9113 6.8",
            "GOAWAY that takes the stream, then the answer",
            vec![goaway(1, code::NO_ERROR), ok(0), end(b"ok")],
        ),
        good(
            "client/ok/12",
            "9113 6.9",
            "WINDOW_UPDATE before the answer",
            vec![window_update(0, 1), window_update(1, 1), ok(0), end(b"ok")],
        ),
        reply(
            "client/ok/13",
            "9113 6.7",
            "PING is answered",
            Some(Expect::Alive),
            Answer,
            [ping(super::expect::MARK), ok(0), end(b"ok")],
        ),
        reply(
            "client/ok/14",
            "9110 9.3.2",
            "HEAD with a length",
            None,
            Answer,
            [headers(
                1,
                flag::END_STREAM,
                &[OK, &block(&[("content-length", "50")])].concat(),
            )],
        )
        .to("HEAD"),
    ]
}

fn connection_errors() -> Vec<Reply> {
    let bad = |id, section, what, codes, frames: Vec<Vec<u8>>| {
        reply(
            id,
            section,
            what,
            Some(Connection(codes)),
            Downstream::Failure,
            [frames.concat()],
        )
    };
    let large = vec![b'x'; 16385];
    let padding = [&[30][..], b"ok"].concat();
    let promise = [&[0, 0, 0, 2][..], &super::frame::request_block("GET", &[])].concat();
    vec![
        bad(
            "client/4.2/1",
            "9113 4.2",
            "HEADERS of more than 16,384 bytes",
            SIZE,
            vec![ok_with(&[("x", &"y".repeat(17000))])],
        ),
        bad(
            "client/4.3/1",
            "9113 4.3",
            "a block that cannot be decoded",
            COMPRESSION,
            vec![headers(1, 0, &[0x40])],
        ),
        bad(
            "client/4.3/2",
            "9113 4.3",
            "another frame within a block",
            PROTOCOL,
            vec![frame(kind::HEADERS, 0, 1, OK), data(1, 0, b"x")],
        ),
        bad(
            "client/5.1/1",
            "9113 5.1",
            "DATA on an idle stream",
            PROTOCOL,
            vec![data(99, 0, b"x")],
        ),
        bad(
            "client/5.1/2",
            "9113 5.1",
            "HEADERS on an idle stream",
            PROTOCOL,
            vec![headers(99, 0, OK)],
        ),
        bad(
            "client/5.1/3",
            "9113 5.1",
            "WINDOW_UPDATE on an idle stream",
            PROTOCOL,
            vec![window_update(99, 1)],
        ),
        bad(
            "client/5.1/4",
            "9113 5.1",
            "RST_STREAM on an idle stream",
            PROTOCOL,
            vec![rst_stream(99, 8)],
        ),
        bad(
            "client/5.1.1/1",
            "9113 5.1.1",
            "HEADERS on a stream of an even number",
            PROTOCOL,
            vec![headers(2, 0, OK)],
        ),
        bad(
            "client/6.1/1",
            "9113 6.1",
            "DATA on stream 0",
            PROTOCOL,
            vec![ok(0), data(0, 0, b"x")],
        ),
        bad(
            "client/6.1/2",
            "9113 6.1",
            "padding beyond the payload of DATA",
            PROTOCOL,
            vec![ok(0), data(1, flag::PADDED, &padding)],
        ),
        bad(
            "client/6.1/3",
            "9113 4.2",
            "DATA of 16,385 bytes",
            SIZE,
            vec![ok(0), data(1, flag::END_STREAM, &large)],
        ),
        bad(
            "client/6.2/1",
            "9113 6.2",
            "HEADERS on stream 0",
            PROTOCOL,
            vec![headers(0, 0, OK)],
        ),
        bad(
            "client/6.3/1",
            "9113 6.3",
            "PRIORITY on stream 0",
            PROTOCOL,
            vec![priority(0, 1, 1)],
        ),
        bad(
            "client/6.4/1",
            "9113 6.4",
            "RST_STREAM on stream 0",
            PROTOCOL,
            vec![rst_stream(0, 8)],
        ),
        bad(
            "client/6.4/2",
            "9113 6.4",
            "RST_STREAM of 3 bytes",
            SIZE,
            vec![frame(kind::RST_STREAM, 0, 1, &[0; 3])],
        ),
        bad(
            "client/6.6/1",
            "9113 6.6",
            "PUSH_PROMISE that was not allowed",
            PROTOCOL,
            vec![frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise)],
        ),
        bad(
            "client/6.7/1",
            "9113 6.7",
            "PING on a stream",
            PROTOCOL,
            vec![frame(kind::PING, 0, 1, &[0; 8])],
        ),
        bad(
            "client/6.7/2",
            "9113 6.7",
            "PING of 6 bytes",
            SIZE,
            vec![frame(kind::PING, 0, 0, &[0; 6])],
        ),
        bad(
            "client/6.8/1",
            "9113 6.8",
            "GOAWAY on a stream",
            PROTOCOL,
            vec![frame(kind::GOAWAY, 0, 1, &[0; 8])],
        ),
        bad(
            "client/6.9/1",
            "9113 6.9",
            "WINDOW_UPDATE of 0",
            PROTOCOL,
            vec![window_update(0, 0)],
        ),
        bad(
            "client/6.9/2",
            "9113 6.9",
            "WINDOW_UPDATE of 3 bytes",
            SIZE,
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1])],
        ),
        bad(
            "client/6.9.1/1",
            "9113 6.9.1",
            "the connection's window beyond 2^31-1",
            FLOW,
            vec![window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)],
        ),
        bad(
            "client/6.10/1",
            "9113 6.10",
            "CONTINUATION without HEADERS",
            PROTOCOL,
            vec![continuation(1, flag::END_HEADERS, OK)],
        ),
    ]
}

fn settings_errors() -> Vec<Reply> {
    let bad = |id, what, codes, bytes: Vec<u8>| {
        reply(
            id,
            "9113 6.5",
            what,
            Some(Connection(codes)),
            Downstream::Failure,
            [bytes],
        )
    };
    vec![
        bad(
            "client/6.5/1",
            "SETTINGS with ACK and a payload",
            SIZE,
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        ),
        bad(
            "client/6.5/2",
            "SETTINGS on a stream",
            PROTOCOL,
            frame(kind::SETTINGS, 0, 1, &[]),
        ),
        bad(
            "client/6.5/3",
            "SETTINGS of 3 bytes",
            SIZE,
            frame(kind::SETTINGS, 0, 0, &[0; 3]),
        ),
        bad(
            "client/6.5.2/1",
            "ENABLE_PUSH of a server",
            PROTOCOL,
            settings(&[(setting::ENABLE_PUSH, 1)]),
        ),
        bad(
            "client/6.5.2/2",
            "INITIAL_WINDOW_SIZE of 2^31",
            FLOW,
            settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
        ),
        bad(
            "client/6.5.2/3",
            "MAX_FRAME_SIZE of 16,383",
            PROTOCOL,
            settings(&[(setting::MAX_FRAME_SIZE, 16383)]),
        ),
    ]
}

fn stream_errors() -> Vec<Reply> {
    use Downstream::{Either, Failure};
    vec![
        reply(
            "client/6.9/3",
            "9113 6.9",
            "WINDOW_UPDATE of 0 on a stream",
            Some(Stream(1, PROTOCOL)),
            Failure,
            [window_update(1, 0)],
        ),
        reply(
            "client/6.9.1/2",
            "9113 6.9.1",
            "a stream's window beyond 2^31-1",
            Some(Stream(1, FLOW)),
            Failure,
            [window_update(1, 0x7fff_ffff), window_update(1, 0x7fff_ffff)],
        ),
        reply(
            "client/8.1/1",
            "9113 8.1",
            "DATA before HEADERS",
            Some(Stream(1, PROTOCOL)),
            Failure,
            [end(b"ok")],
        ),
        reply(
            "client/8.1/2",
            "9113 8.1",
            "trailers without END_STREAM",
            Some(Malformed(1)),
            Failure,
            [
                ok(0),
                data(1, 0, b"ok"),
                headers(1, 0, &block(&[("x", "y")])),
            ],
        ),
        reply(
            "client/5.1/5",
            "9113 5.1",
            "DATA behind END_STREAM",
            Some(Stream(1, CLOSED_OR_PROTOCOL)),
            Either,
            [ok(0), end(b"ok"), data(1, 0, b"x")],
        ),
        reply(
            "client/5.1/6",
            "9113 5.1",
            "HEADERS behind END_STREAM",
            Some(Stream(1, CLOSED_OR_PROTOCOL)),
            Either,
            [ok(0), end(b"ok"), ok(flag::END_STREAM)],
        ),
    ]
}

fn malformed() -> Vec<Reply> {
    let bad = |id, section, what, frames: Vec<Vec<u8>>| {
        reply(
            id,
            section,
            what,
            None,
            Downstream::Failure,
            [frames.concat()],
        )
    };
    let head = |id, section, what, fields: &[(&str, &str)]| {
        bad(
            id,
            section,
            what,
            vec![headers(1, 0, &block(fields)), end(b"ok")],
        )
    };
    let field = |id, section, what, more: &[(&str, &str)]| {
        bad(id, section, what, vec![ok_with(more), end(b"ok")])
    };
    let status = (":status", "200");
    vec![
        head("client/8.3.2/1", "9113 8.3.2", "no :status", &[("x", "y")]),
        head(
            "client/8.3.2/2",
            "9113 8.3.2",
            "two :status",
            &[status, status],
        ),
        head(
            "client/8.3.2/3",
            "9113 8.3.2",
            ":status of letters",
            &[(":status", "abc")],
        ),
        head(
            "client/8.3.2/4",
            "9113 8.3.2",
            ":status of two digits",
            &[(":status", "20")],
        ),
        head(
            "client/8.3.2/5",
            "9113 8.3.2",
            ":status of four digits",
            &[(":status", "2000")],
        ),
        head(
            "client/8.3/1",
            "9113 8.3",
            "a pseudo-header of requests",
            &[status, (":path", "/")],
        ),
        head(
            "client/8.3/2",
            "9113 8.3",
            "an unknown pseudo-header",
            &[status, (":x", "y")],
        ),
        head(
            "client/8.3/3",
            "9113 8.3",
            "a pseudo-header behind a field",
            &[("x", "y"), status],
        ),
        field(
            "client/8.2/1",
            "9113 8.2",
            "a name in upper case",
            &[("X-Up", "y")],
        ),
        field(
            "client/8.2/2",
            "9113 8.2",
            "CRLF in a value",
            &[("x", "y\r\nset-cookie: z")],
        ),
        field(
            "client/8.2/3",
            "9113 8.2",
            "NUL in a value",
            &[("x", "y\0")],
        ),
        field(
            "client/8.2/4",
            "9113 8.2",
            "a blank in a name",
            &[("x y", "z")],
        ),
        field(
            "client/8.2.2/1",
            "9113 8.2.2",
            "a field of the connection",
            &[("connection", "close")],
        ),
        field(
            "client/8.2.2/2",
            "9113 8.2.2",
            "transfer-encoding",
            &[("transfer-encoding", "chunked")],
        ),
        field(
            "client/8.1.1/1",
            "9113 8.1.1",
            "content-length is more than DATA",
            &[("content-length", "5")],
        ),
        field(
            "client/8.1.1/2",
            "9113 8.1.1",
            "content-length is less than DATA",
            &[("content-length", "1")],
        ),
        field(
            "client/8.1.1/3",
            "9110 8.6",
            "content-length is no number",
            &[("content-length", "+2")],
        ),
        bad(
            "client/8.1/3",
            "9113 8.1",
            "an interim answer that ends the stream",
            vec![headers(1, flag::END_STREAM, &block(&[(":status", "103")]))],
        ),
        bad(
            "client/8.6/1",
            "9113 8.6",
            "101",
            vec![headers(1, 0, &block(&[(":status", "101")])), end(b"ok")],
        ),
        bad(
            "client/8.1/4",
            "9113 8.1",
            "a pseudo-header in trailers",
            vec![
                ok(0),
                data(1, 0, b"ok"),
                headers(1, flag::END_STREAM, &block(&[status])),
            ],
        ),
    ]
}

fn hostile() -> Vec<Reply> {
    use Downstream::{Either, Failure};
    let interim = headers(1, 0, &block(&[(":status", "103")]));
    let empty = data(1, 0, b"");
    vec![
        reply(
            "client/C24/1",
            "9113 6.8",
            "GOAWAY that does not take the stream",
            None,
            Failure,
            [goaway(0, 0)],
        ),
        reply(
            "client/C24/2",
            "9113 6.8",
            "GOAWAY, then no stream allowed",
            None,
            Failure,
            [
                goaway(0, 0),
                settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)]),
            ],
        ),
        reply(
            "client/C24/3",
            "9113 6.8",
            "GOAWAY, then RST_STREAM",
            None,
            Failure,
            [goaway(1, 0), rst_stream(1, code::REFUSED_STREAM)],
        ),
        reply(
            "client/C24/4",
            "9113 6.4",
            "RST_STREAM at once",
            None,
            Failure,
            [rst_stream(1, code::CANCEL)],
        ),
        reply(
            "client/C24/5",
            "9113 6.4",
            "RST_STREAM within the answer",
            None,
            Failure,
            [
                ok_with(&[("content-length", "5")]),
                data(1, 0, b"ok"),
                rst_stream(1, code::INTERNAL_ERROR),
            ],
        ),
        reply(
            "client/C18/1",
            "bounded",
            "1 MiB of CONTINUATION",
            Some(Connection(ANY)),
            Failure,
            [
                frame(kind::HEADERS, 0, 1, OK),
                continuation(1, 0, &literal(b"x", &[b'y'; 16000])).repeat(64),
            ],
        ),
        reply(
            "client/C18/2",
            "bounded",
            "100,000 empty CONTINUATION",
            Some(Connection(ANY)),
            Failure,
            [
                frame(kind::HEADERS, 0, 1, OK),
                continuation(1, 0, b"").repeat(100_000),
            ],
        ),
        reply(
            "client/C20/1",
            "bounded",
            "100,000 interim answers",
            None,
            Failure,
            [interim.repeat(100_000)],
        ),
        reply(
            "client/C21/1",
            "bounded",
            "100,000 empty DATA",
            None,
            Either,
            [ok(0), empty.repeat(100_000)],
        ),
        reply(
            "client/table/1",
            "7541 4.2",
            "a small table for the encoder",
            None,
            Downstream::Answer,
            [ok(0), end(b"ok")],
        )
        .with_settings(&[
            (setting::HEADER_TABLE_SIZE, 0),
            (setting::MAX_HEADER_LIST_SIZE, 1 << 20),
        ]),
    ]
}
