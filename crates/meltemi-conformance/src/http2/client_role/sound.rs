//! Answers that must arrive.

use super::*;

pub(super) fn sound() -> Vec<Reply> {
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
            [ping(super::super::expect::MARK), ok(0), end(b"ok")],
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
