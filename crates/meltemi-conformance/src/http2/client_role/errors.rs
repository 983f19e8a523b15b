//! Frames that are wrong.

use super::*;

pub(super) fn connection_errors() -> Vec<Reply> {
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
    let promise = [
        &[0, 0, 0, 2][..],
        &super::super::frame::request_block("GET", &[]),
    ]
    .concat();
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

pub(super) fn settings_errors() -> Vec<Reply> {
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

pub(super) fn stream_errors() -> Vec<Reply> {
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
