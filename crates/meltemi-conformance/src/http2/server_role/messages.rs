//! HTTP in frames, and the compression of its fields.

use super::*;

pub(super) fn messages() -> Vec<Script> {
    let end = flag::END_STREAM;
    let bad = |id, section, what, fields: &[(&str, &str)]| {
        case(id, section, what, Malformed(1)).send([headers(1, end, &block(fields))])
    };
    let with = |id, section, what, more: &[(&str, &str)]| {
        case(id, section, what, Malformed(1)).send([headers(1, end, &request_block("GET", more))])
    };
    let (method, scheme, path, host) = (
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/v"),
        (":authority", "a"),
    );
    let length = |id, value, contents: &[&[u8]]| {
        let head = headers(1, 0, &request_block("POST", &[("content-length", value)]));
        let mut script = case(
            id,
            "9113 8.1.1",
            "content-length is not the sum of DATA",
            Malformed(1),
        )
        .send([head]);
        for (at, content) in contents.iter().enumerate() {
            let flags = if at + 1 == contents.len() { end } else { 0 };
            script = script.send([data(1, flags, content)]);
        }
        script
    };
    vec![
        case(
            "http2/8.1/1",
            "9113 8.1",
            "trailers without END_STREAM",
            Malformed(1),
        )
        .send([
            post(1),
            data(1, 0, b"x"),
            headers(1, 0, &block(&[("x", "y")])),
        ]),
        with(
            "http2/8.1.2/1",
            "9113 8.2",
            "a name in upper case",
            &[("X-Up", "y")],
        ),
        with(
            "http2/8.1.2.1/1",
            "9113 8.3",
            "an unknown pseudo-header",
            &[(":x", "y")],
        ),
        with(
            "http2/8.1.2.1/2",
            "9113 8.3",
            "a pseudo-header of responses",
            &[(":status", "200")],
        ),
        case(
            "http2/8.1.2.1/3",
            "9113 8.3",
            "a pseudo-header in trailers",
            Malformed(1),
        )
        .send([post(1), headers(1, end, &block(&[(":method", "GET")]))]),
        bad(
            "http2/8.1.2.1/4",
            "9113 8.3",
            "a pseudo-header behind a field",
            &[method, scheme, ("x", "y"), path, host],
        ),
        with(
            "http2/8.1.2.2/1",
            "9113 8.2.2",
            "a field of the connection",
            &[("connection", "keep-alive")],
        ),
        with(
            "http2/8.1.2.2/2",
            "9113 8.2.2",
            "TE other than trailers",
            &[("te", "trailers, deflate")],
        ),
        bad(
            "http2/8.1.2.3/1",
            "9113 8.3.1",
            "an empty :path",
            &[method, scheme, (":path", ""), host],
        ),
        bad(
            "http2/8.1.2.3/2",
            "9113 8.3.1",
            "no :method",
            &[scheme, path, host],
        ),
        bad(
            "http2/8.1.2.3/3",
            "9113 8.3.1",
            "no :scheme",
            &[method, path, host],
        ),
        bad(
            "http2/8.1.2.3/4",
            "9113 8.3.1",
            "no :path",
            &[method, scheme, host],
        ),
        bad(
            "http2/8.1.2.3/5",
            "9113 8.3.1",
            "two :method",
            &[method, method, scheme, path, host],
        ),
        bad(
            "http2/8.1.2.3/6",
            "9113 8.3.1",
            "two :scheme",
            &[method, scheme, scheme, path, host],
        ),
        bad(
            "http2/8.1.2.3/7",
            "9113 8.3.1",
            "two :path",
            &[method, scheme, path, path, host],
        ),
        length("http2/8.1.2.6/1", "1", &[b"hello"]),
        length("http2/8.1.2.6/2", "1", &[b"hel", b"lo"]),
        case(
            "http2/8.2/1",
            "9113 8.4",
            "PUSH_PROMISE of a client",
            Connection(PROTOCOL),
        )
        .send([
            post(1),
            frame(
                kind::PUSH_PROMISE,
                flag::END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &request_block("GET", &[])].concat(),
            ),
        ]),
    ]
}

pub(super) fn compression() -> Vec<Script> {
    let bad = |id, section, what, field: &[u8]| {
        let all = [&request_block("GET", &[]), field].concat();
        case(id, section, what, Connection(COMPRESSION)).send([headers(1, flag::END_STREAM, &all)])
    };
    let mut beyond_size = Vec::new();
    integer(&mut beyond_size, 0x20, 5, 1 << 20);
    let beyond_size = [beyond_size, request_block("GET", &[])].concat();
    vec![
        bad(
            "hpack/2.3.3/1",
            "7541 2.3.3",
            "an index beyond the tables",
            &[0xff, 0x0a],
        ),
        bad(
            "hpack/2.3.3/2",
            "7541 2.3.3",
            "a name's index beyond the tables",
            &[0x7f, 0x20, 0x01, b'y'],
        ),
        bad(
            "hpack/4.2/1",
            "7541 4.2",
            "a change of the table size at the end",
            &[0x20],
        ),
        bad(
            "hpack/5.2/1",
            "7541 5.2",
            "Huffman padding of a byte",
            b"\x00\x01x\x84\x49\x50\x9f\xff",
        ),
        bad(
            "hpack/5.2/2",
            "7541 5.2",
            "Huffman padding of zeros",
            b"\x00\x01x\x83\x49\x50\x90",
        ),
        bad(
            "hpack/5.2/3",
            "7541 5.2",
            "the end-of-string code",
            b"\x00\x01x\x84\xff\xff\xff\xff",
        ),
        bad("hpack/6.1/1", "7541 6.1", "index 0", &[0x80]),
        case(
            "hpack/6.3/1",
            "7541 6.3",
            "a table size beyond the setting",
            Connection(COMPRESSION),
        )
        .send([headers(1, flag::END_STREAM, &beyond_size)]),
        // A length that says more than there is.
        case(
            "own/4.2/4",
            "9113 4.2",
            "a frame longer than allowed, cut",
            Connection(SIZE),
        )
        .send([headed(1 << 20, kind::HEADERS, flag::END_STREAM, 1, b"x")]),
    ]
}
