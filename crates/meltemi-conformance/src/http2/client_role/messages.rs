//! Answers that are wrong, and hostile upstreams.

use super::*;

pub(super) fn malformed() -> Vec<Reply> {
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

pub(super) fn hostile() -> Vec<Reply> {
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
