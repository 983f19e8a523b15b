//! The start of a connection, the states of its streams, and how it ends.

use super::*;

pub(super) fn start_and_frames() -> Vec<Script> {
    let end = flag::END_STREAM;
    let unknown = frame(0x77, 0xff, 0, b"meltemi");
    let reserved = frame(kind::PING, 0, 0x8000_0000, b"12345678");
    let large = vec![0; FRAME + 1];
    let big_value = "y".repeat(FRAME);
    vec![
        case("http2/3.5/1", "9113 3.4", "a preface", Acknowledged(1)),
        case(
            "http2/3.5/2",
            "9113 3.4",
            "a preface that is none",
            Connection(PROTOCOL),
        )
        .without_handshake()
        .send([b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec()]),
        case(
            "own/3.4/1",
            "9113 3.4",
            "a preface without SETTINGS",
            Connection(PROTOCOL),
        )
        .without_handshake()
        .send([PREFACE.to_vec(), get(1)]),
        case(
            "http2/4.1/1",
            "9113 4.1",
            "a frame of an unknown type",
            Alive,
        )
        .send([unknown]),
        case("http2/4.1/2", "9113 4.1", "undefined flags", Alive).send([frame(
            kind::PING,
            0x16,
            0,
            b"12345678",
        )]),
        case("http2/4.1/3", "9113 4.1", "the reserved bit", Alive).send([reserved]),
        case(
            "http2/4.2/1",
            "9113 4.2",
            "DATA of 16,384 bytes",
            Answered(1),
        )
        .send([post(1), data(1, end, &vec![0; FRAME])]),
        case(
            "http2/4.2/2",
            "9113 4.2",
            "DATA of 16,385 bytes",
            Stream(1, SIZE),
        )
        .send([post(1), data(1, end, &large)]),
        case(
            "http2/4.2/3",
            "9113 4.2",
            "HEADERS of more than 16,384 bytes",
            Connection(SIZE),
        )
        .send([headers(1, end, &request_block("GET", &[("x", &big_value)]))]),
        case(
            "http2/4.3/1",
            "9113 4.3",
            "a block that cannot be decoded",
            Connection(COMPRESSION),
        )
        .send([headers(1, end, &[0x40])]),
        case(
            "http2/4.3/2",
            "9113 4.3",
            "PRIORITY within a block",
            Connection(PROTOCOL),
        )
        .send([open_head(1, end), priority(1, 0, 255)]),
        case(
            "http2/4.3/3",
            "9113 4.3",
            "HEADERS of another stream within a block",
            Connection(PROTOCOL),
        )
        .send([open_head(1, end), get(3)]),
    ]
}

pub(super) fn states() -> Vec<Script> {
    let end_headers = flag::END_HEADERS;
    let more = block(&[("x", "y")]);
    let reset = |script: Script| script.send([post(1), rst_stream(1, code::CANCEL)]);
    vec![
        case(
            "http2/5.1/1",
            "9113 5.1",
            "DATA on an idle stream",
            Connection(PROTOCOL),
        )
        .send([data(1, 0, b"x")]),
        case(
            "http2/5.1/2",
            "9113 5.1",
            "RST_STREAM on an idle stream",
            Connection(PROTOCOL),
        )
        .send([rst_stream(1, code::CANCEL)]),
        case(
            "http2/5.1/3",
            "9113 5.1",
            "WINDOW_UPDATE on an idle stream",
            Connection(PROTOCOL),
        )
        .send([window_update(1, 1)]),
        case(
            "http2/5.1/4",
            "9113 5.1",
            "CONTINUATION on an idle stream",
            Connection(PROTOCOL),
        )
        .send([continuation(1, end_headers, &more)]),
        case(
            "http2/5.1/5",
            "9113 5.1",
            "DATA on a half-closed stream",
            Stream(1, CLOSED),
        )
        .send([get(1), data(1, 0, b"x")]),
        case(
            "http2/5.1/6",
            "9113 5.1",
            "HEADERS on a half-closed stream",
            Stream(1, CLOSED_OR_PROTOCOL),
        )
        .send([get(1), get(1)]),
        case(
            "http2/5.1/7",
            "9113 5.1",
            "CONTINUATION on a half-closed stream",
            Connection(CLOSED_OR_PROTOCOL),
        )
        .send([get(1), continuation(1, end_headers, &more)]),
        reset(case(
            "http2/5.1/8",
            "9113 5.1",
            "DATA behind RST_STREAM",
            Stream(1, CLOSED),
        ))
        .send([data(1, 0, b"x")]),
        reset(case(
            "http2/5.1/9",
            "9113 5.1",
            "HEADERS behind RST_STREAM",
            Stream(1, CLOSED_OR_PROTOCOL),
        ))
        .send([get(1)]),
        reset(case(
            "http2/5.1/10",
            "9113 5.1",
            "CONTINUATION behind RST_STREAM",
            Connection(CLOSED_OR_PROTOCOL),
        ))
        .send([continuation(1, end_headers, &more)]),
        case(
            "http2/5.1/11",
            "9113 5.1",
            "DATA on a closed stream",
            Stream(1, CLOSED),
        )
        .answered(1)
        .send([data(1, 0, b"x")]),
        case(
            "http2/5.1/12",
            "9113 5.1",
            "HEADERS on a closed stream",
            Connection(CLOSED_OR_PROTOCOL),
        )
        .answered(1)
        .send([get(1)]),
        case(
            "http2/5.1/13",
            "9113 5.1",
            "CONTINUATION on a closed stream",
            Connection(CLOSED_OR_PROTOCOL),
        )
        .answered(1)
        .send([continuation(1, end_headers, &more)]),
        case(
            "http2/5.1.1/1",
            "9113 5.1.1",
            "a stream of an even number",
            Connection(PROTOCOL),
        )
        .send([get(2)]),
        case(
            "http2/5.1.1/2",
            "9113 5.1.1",
            "a stream of a lower number",
            Connection(PROTOCOL),
        )
        .answered(5)
        .send([get(3)]),
        case(
            "http2/5.1.2/1",
            "9113 5.1.2",
            "more streams than the limit",
            RefusedOrUnlimited,
        )
        .step(Step::OpenTooMany),
        case(
            "http2/5.3.1/1",
            "7540 5.3.1",
            "HEADERS that depend on themselves",
            Stream(1, PROTOCOL),
        )
        .send([headers(
            1,
            flag::END_STREAM | flag::PRIORITY,
            &[&[0, 0, 0, 1, 255][..], &request_block("GET", &[])].concat(),
        )]),
        case(
            "http2/5.3.1/2",
            "7540 5.3.1",
            "PRIORITY that depends on itself",
            Stream(1, PROTOCOL),
        )
        .send([priority(1, 1, 255)]),
    ]
}

pub(super) fn errors_and_extensions() -> Vec<Script> {
    vec![
        case(
            "http2/5.4.1/1",
            "9113 5.4.1",
            "a connection error is told by GOAWAY",
            Connection(SIZE),
        )
        .send([frame(kind::PING, 0, 0, b"1234567")]),
        case(
            "http2/5.4.1/2",
            "9113 5.4.1",
            "nothing is taken behind one",
            Connection(SIZE),
        )
        .send([frame(kind::PING, 0, 0, b"1234567"), get(1)]),
        case("http2/5.5/1", "9113 5.5", "an extension frame", Alive)
            .send([frame(0x16, 0, 0, b"x")]),
        case(
            "http2/5.5/2",
            "9113 5.5",
            "an extension frame within a block",
            Connection(PROTOCOL),
        )
        .send([open_head(1, flag::END_STREAM), frame(0x16, 0, 0, b"x")]),
    ]
}
