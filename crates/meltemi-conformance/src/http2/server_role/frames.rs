//! Each type of frame.

use super::*;

pub(super) fn data_and_headers() -> Vec<Script> {
    let padding = [&[30][..], b"hello"].concat();
    let get_block = request_block("GET", &[]);
    let padded = [&[200][..], &get_block].concat();
    vec![
        case(
            "http2/6.1/1",
            "9113 6.1",
            "DATA on stream 0",
            Connection(PROTOCOL),
        )
        .send([data(0, 0, b"x")]),
        case(
            "http2/6.1/2",
            "9113 6.1",
            "DATA on a stream that is not open",
            Stream(1, CLOSED),
        )
        .answered(1)
        .send([data(1, flag::END_STREAM, b"x")]),
        case(
            "http2/6.1/3",
            "9113 6.1",
            "padding beyond the payload of DATA",
            Connection(PROTOCOL),
        )
        .send([post(1), data(1, flag::PADDED, &padding)]),
        case(
            "http2/6.2/1",
            "9113 6.2",
            "HEADERS not at their end, then PRIORITY",
            Connection(PROTOCOL),
        )
        .send([open_head(1, 0), priority(3, 0, 1)]),
        case(
            "http2/6.2/2",
            "9113 6.2",
            "HEADERS not at their end, then others",
            Connection(PROTOCOL),
        )
        .send([open_head(1, 0), get(3)]),
        case(
            "http2/6.2/3",
            "9113 6.2",
            "HEADERS on stream 0",
            Connection(PROTOCOL),
        )
        .send([get(0)]),
        case(
            "http2/6.2/4",
            "9113 6.2",
            "padding beyond the payload of HEADERS",
            Connection(PROTOCOL),
        )
        .send([headers(1, flag::END_STREAM | flag::PADDED, &padded)]),
    ]
}

pub(super) fn small_frames() -> Vec<Script> {
    vec![
        case(
            "http2/6.3/1",
            "9113 6.3",
            "PRIORITY on stream 0",
            Connection(PROTOCOL),
        )
        .send([priority(0, 1, 1)]),
        case(
            "http2/6.3/2",
            "9113 6.3",
            "PRIORITY of 4 bytes",
            Stream(1, SIZE_OR_PROTOCOL),
        )
        .send([post(1), frame(kind::PRIORITY, 0, 1, &[0; 4])]),
        case(
            "http2/6.4/1",
            "9113 6.4",
            "RST_STREAM on stream 0",
            Connection(PROTOCOL),
        )
        .send([rst_stream(0, 8)]),
        case(
            "http2/6.4/2",
            "9113 6.4",
            "RST_STREAM on an idle stream",
            Connection(PROTOCOL),
        )
        .send([rst_stream(7, 8)]),
        case(
            "http2/6.4/3",
            "9113 6.4",
            "RST_STREAM of 3 bytes",
            Connection(SIZE),
        )
        .send([post(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])]),
    ]
}

pub(super) fn settings_frames() -> Vec<Script> {
    let one = |id, value| settings(&[(id, value)]);
    vec![
        case(
            "http2/6.5/1",
            "9113 6.5",
            "SETTINGS with ACK and a payload",
            Connection(SIZE),
        )
        .send([frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])]),
        case(
            "http2/6.5/2",
            "9113 6.5",
            "SETTINGS on a stream",
            Connection(PROTOCOL),
        )
        .send([frame(kind::SETTINGS, 0, 1, &[])]),
        case(
            "http2/6.5/3",
            "9113 6.5",
            "SETTINGS of 3 bytes",
            Connection(SIZE),
        )
        .send([frame(kind::SETTINGS, 0, 0, &[0; 3])]),
        case(
            "http2/6.5.2/1",
            "9113 6.5.2",
            "ENABLE_PUSH of 2",
            Connection(PROTOCOL),
        )
        .send([one(setting::ENABLE_PUSH, 2)]),
        case(
            "http2/6.5.2/2",
            "9113 6.5.2",
            "INITIAL_WINDOW_SIZE of 2^31",
            Connection(FLOW),
        )
        .send([one(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
        case(
            "http2/6.5.2/3",
            "9113 6.5.2",
            "MAX_FRAME_SIZE of 16,383",
            Connection(PROTOCOL),
        )
        .send([one(setting::MAX_FRAME_SIZE, 16383)]),
        case(
            "http2/6.5.2/4",
            "9113 6.5.2",
            "MAX_FRAME_SIZE of 2^24",
            Connection(PROTOCOL),
        )
        .send([one(setting::MAX_FRAME_SIZE, 1 << 24)]),
        case("http2/6.5.2/5", "9113 6.5.2", "an unknown setting", Alive).send([one(0xff, 1)]),
        case(
            "http2/6.5.3/1",
            "9113 6.5.3",
            "the last of two values counts",
            Data(1, 1),
        )
        .send([
            settings(&[
                (setting::INITIAL_WINDOW_SIZE, 100),
                (setting::INITIAL_WINDOW_SIZE, 1),
            ]),
            get(1),
        ]),
        case(
            "http2/6.5.3/2",
            "9113 6.5.3",
            "SETTINGS are acknowledged",
            Acknowledged(2),
        )
        .send([settings(&[])]),
    ]
}

pub(super) fn ping_and_goaway() -> Vec<Script> {
    vec![
        case(
            "http2/6.7/1",
            "9113 6.7",
            "PING is answered with its payload",
            Alive,
        ),
        case(
            "http2/6.7/2",
            "9113 6.7",
            "PING with ACK is not answered",
            Alive,
        )
        .send([frame(kind::PING, flag::ACK, 0, b"12345678")]),
        case(
            "http2/6.7/3",
            "9113 6.7",
            "PING on a stream",
            Connection(PROTOCOL),
        )
        .send([frame(kind::PING, 0, 1, b"12345678")]),
        case(
            "http2/6.7/4",
            "9113 6.7",
            "PING of 6 bytes",
            Connection(SIZE),
        )
        .send([frame(kind::PING, 0, 0, b"123456")]),
        case(
            "http2/6.8/1",
            "9113 6.8",
            "GOAWAY on a stream",
            Connection(PROTOCOL),
        )
        .send([frame(kind::GOAWAY, 0, 1, &[0; 8])]),
    ]
}

pub(super) fn flow_control() -> Vec<Script> {
    const MOST: u32 = 0x7fff_ffff;
    let window = |size| settings(&[(setting::INITIAL_WINDOW_SIZE, size)]);
    vec![
        case(
            "http2/6.9/1",
            "9113 6.9",
            "WINDOW_UPDATE of 0",
            Connection(PROTOCOL),
        )
        .send([window_update(0, 0)]),
        case(
            "http2/6.9/2",
            "9113 6.9",
            "WINDOW_UPDATE of 0 on a stream",
            Stream(1, PROTOCOL),
        )
        .send([post(1), window_update(1, 0)]),
        case(
            "http2/6.9/3",
            "9113 6.9",
            "WINDOW_UPDATE of 3 bytes",
            Connection(SIZE),
        )
        .send([frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 1])]),
        case("http2/6.9.1/1", "9113 6.9.1", "a window of 1", Data(1, 1)).send([window(1), get(1)]),
        case(
            "http2/6.9.1/2",
            "9113 6.9.1",
            "the connection's window beyond 2^31-1",
            Connection(FLOW),
        )
        .send([window_update(0, MOST), window_update(0, MOST)]),
        case(
            "http2/6.9.1/3",
            "9113 6.9.1",
            "a stream's window beyond 2^31-1",
            Stream(1, FLOW),
        )
        .send([post(1), window_update(1, MOST), window_update(1, MOST)]),
        case(
            "http2/6.9.2/1",
            "9113 6.9.2",
            "a window that grows by SETTINGS",
            Data(1, 1),
        )
        .with_settings(&[(setting::INITIAL_WINDOW_SIZE, 0)])
        .send([get(1), window(1)]),
        case(
            "http2/6.9.2/2",
            "9113 6.9.2",
            "a window below 0",
            Data(1, 4),
        )
        .with_settings(&[(setting::INITIAL_WINDOW_SIZE, 3)])
        .send([get(1)])
        .step(Step::AwaitData(1, 3))
        .send([window(2), window_update(1, 2)]),
        case(
            "http2/6.9.2/3",
            "9113 6.9.2",
            "a stream's window beyond 2^31-1 by SETTINGS",
            Connection(FLOW),
        )
        .send([post(1), window_update(1, MOST - 65535), window(MOST)]),
    ]
}

pub(super) fn continuations() -> Vec<Script> {
    let end = flag::END_STREAM;
    let whole = request_block("GET", &[]);
    let (first, rest) = whole.split_at(10);
    let (second, third) = rest.split_at(5);
    let more = block(&[("x", "y")]);
    let begun = || frame(kind::HEADERS, end, 1, first);
    vec![
        case(
            "http2/6.10/1",
            "9113 6.10",
            "several CONTINUATION",
            Answered(1),
        )
        .send([
            begun(),
            continuation(1, 0, second),
            continuation(1, flag::END_HEADERS, third),
        ]),
        case(
            "http2/6.10/2",
            "9113 6.10",
            "DATA within a block",
            Connection(PROTOCOL),
        )
        .send([begun(), continuation(1, 0, second), data(1, 0, b"x")]),
        case(
            "http2/6.10/3",
            "9113 6.10",
            "CONTINUATION on stream 0",
            Connection(PROTOCOL),
        )
        .send([begun(), continuation(0, flag::END_HEADERS, rest)]),
        case(
            "http2/6.10/4",
            "9113 6.10",
            "CONTINUATION behind HEADERS at their end",
            Connection(PROTOCOL),
        )
        .send([post(1), continuation(1, flag::END_HEADERS, &more)]),
        case(
            "http2/6.10/5",
            "9113 6.10",
            "CONTINUATION behind the last one",
            Connection(PROTOCOL),
        )
        .send([
            frame(kind::HEADERS, 0, 1, first),
            continuation(1, flag::END_HEADERS, rest),
            continuation(1, flag::END_HEADERS, &more),
        ]),
        case(
            "http2/6.10/6",
            "9113 6.10",
            "CONTINUATION behind DATA",
            Connection(PROTOCOL),
        )
        .send([
            post(1),
            data(1, 0, b"x"),
            continuation(1, flag::END_HEADERS, &more),
        ]),
        case(
            "http2/7/1",
            "9113 7",
            "GOAWAY with an unknown code",
            Answered(1),
        )
        .send([get(1), goaway(0, 0xff)]),
        case(
            "http2/7/2",
            "9113 7",
            "RST_STREAM with an unknown code",
            Alive,
        )
        .send([post(1), rst_stream(1, 0xff)]),
    ]
}
