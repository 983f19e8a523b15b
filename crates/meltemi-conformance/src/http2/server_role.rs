//! The proxy as a server: we are its client.

use super::expect::Expect::{
    self, Acknowledged, Alive, Answered, Connection, Data, Malformed, RefusedOrUnlimited, Stream,
};
use super::frame::{
    PREFACE, block, code, continuation, data, flag, frame, goaway, headed, headers,
    indexed_literal, integer, kind, literal, priority, request_block, rst_stream, setting,
    settings, window_update,
};
use super::script::{Script, Step, get, open_head, post};

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];
const CLOSED: &[u32] = &[code::STREAM_CLOSED];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const SIZE_OR_PROTOCOL: &[u32] = &[code::FRAME_SIZE_ERROR, code::PROTOCOL_ERROR];

/// The default of SETTINGS_MAX_FRAME_SIZE.
const FRAME: usize = 16384;

fn case(id: &'static str, section: &'static str, what: &'static str, expect: Expect) -> Script {
    Script::new(id, section, what, expect)
}

pub(super) fn scripts() -> Vec<Script> {
    let mut all = generic();
    all.extend(generic_frames());
    all.extend(generic_messages());
    all.extend(generic_compression());
    all.extend(start_and_frames());
    all.extend(states());
    all.extend(errors_and_extensions());
    all.extend(data_and_headers());
    all.extend(small_frames());
    all.extend(settings_frames());
    all.extend(ping_and_goaway());
    all.extend(flow_control());
    all.extend(continuations());
    all.extend(messages());
    all.extend(compression());
    all
}

fn generic() -> Vec<Script> {
    vec![
        case("generic/1/1", "9113 3.4", "a preface", Answered(1)).send([get(1)]),
        case(
            "generic/2/1",
            "9113 5.1",
            "PRIORITY on an idle stream",
            Answered(1),
        )
        .send([priority(1, 0, 255), get(1)]),
        case(
            "generic/2/2",
            "9113 5.1",
            "WINDOW_UPDATE on a half-closed stream",
            Answered(1),
        )
        .with_settings(&[(setting::INITIAL_WINDOW_SIZE, 0)])
        .send([get(1), window_update(1, 100)]),
        case(
            "generic/2/3",
            "9113 5.1",
            "PRIORITY on a half-closed stream",
            Answered(1),
        )
        .send([get(1), priority(1, 0, 255)]),
        case(
            "generic/2/4",
            "9113 5.1",
            "RST_STREAM on a half-closed stream",
            Alive,
        )
        .with_settings(&[(setting::INITIAL_WINDOW_SIZE, 0)])
        .send([get(1), rst_stream(1, code::CANCEL)]),
        case(
            "generic/2/5",
            "9113 5.1",
            "PRIORITY on a closed stream",
            Alive,
        )
        .answered(1)
        .send([priority(1, 0, 255)]),
    ]
}

fn generic_frames() -> Vec<Script> {
    let padded = [&[3][..], b"hello", &[0; 3]].concat();
    let get_block = request_block("GET", &[]);
    let padded_head = [&[3][..], &get_block, &[0; 3]].concat();
    let prioritised = [&[0, 0, 0, 0, 15][..], &get_block].concat();
    let (first, rest) = get_block.split_at(10);
    let (second, third) = rest.split_at(5);
    let exclusive = priority(1, 0x8000_0000, 255);
    let end = flag::END_STREAM;
    vec![
        case("generic/3.1/1", "9113 6.1", "DATA", Answered(1))
            .send([post(1), data(1, end, b"hello")]),
        case("generic/3.1/2", "9113 6.1", "several DATA", Answered(1)).send([
            post(1),
            data(1, 0, b"hello"),
            data(1, end, b"hello"),
        ]),
        case(
            "generic/3.1/3",
            "9113 6.1",
            "DATA with padding",
            Answered(1),
        )
        .send([post(1), data(1, end | flag::PADDED, &padded)]),
        case("generic/3.2/1", "9113 6.2", "HEADERS", Answered(1)).send([get(1)]),
        case(
            "generic/3.2/2",
            "9113 6.2",
            "HEADERS with padding",
            Answered(1),
        )
        .send([headers(1, end | flag::PADDED, &padded_head)]),
        case(
            "generic/3.2/3",
            "9113 6.2",
            "HEADERS with priority",
            Answered(1),
        )
        .send([headers(1, end | flag::PRIORITY, &prioritised)]),
        case(
            "generic/3.3/1",
            "9113 6.3",
            "PRIORITY of weight 1",
            Answered(1),
        )
        .send([priority(1, 0, 0), get(1)]),
        case(
            "generic/3.3/2",
            "9113 6.3",
            "PRIORITY of weight 256",
            Answered(1),
        )
        .send([priority(1, 0, 255), get(1)]),
        case(
            "generic/3.3/3",
            "9113 6.3",
            "PRIORITY with a dependency",
            Answered(3),
        )
        .send([get(1), priority(3, 1, 255), get(3)]),
        case(
            "generic/3.3/4",
            "9113 6.3",
            "PRIORITY, exclusive",
            Answered(1),
        )
        .send([exclusive, get(1)]),
        case(
            "generic/3.3/5",
            "9113 6.3",
            "PRIORITY before a stream of a lower number",
            Answered(1),
        )
        .send([priority(3, 0, 255), get(1)]),
        case("generic/3.4/1", "9113 6.4", "RST_STREAM", Alive)
            .send([post(1), rst_stream(1, code::CANCEL)]),
        case("generic/3.5/1", "9113 6.5", "SETTINGS", Acknowledged(2)).send([settings(&[])]),
        case("generic/3.7/1", "9113 6.7", "PING", Alive),
        case(
            "generic/3.8/1",
            "9113 6.8",
            "GOAWAY while a stream is open",
            Answered(1),
        )
        .send([get(1), goaway(0, 0)]),
        case(
            "generic/3.9/1",
            "9113 6.9",
            "WINDOW_UPDATE of the connection",
            Answered(1),
        )
        .send([window_update(0, 1), get(1)]),
        case(
            "generic/3.9/2",
            "9113 6.9",
            "WINDOW_UPDATE of a stream",
            Answered(1),
        )
        .send([post(1), window_update(1, 1), data(1, end, b"")]),
        case("generic/3.10/1", "9113 6.10", "CONTINUATION", Answered(1)).send([
            frame(kind::HEADERS, end, 1, first),
            continuation(1, flag::END_HEADERS, rest),
        ]),
        case(
            "generic/3.10/2",
            "9113 6.10",
            "several CONTINUATION",
            Answered(1),
        )
        .send([
            frame(kind::HEADERS, end, 1, first),
            continuation(1, 0, second),
            continuation(1, flag::END_HEADERS, third),
        ]),
    ]
}

fn generic_messages() -> Vec<Script> {
    let end = flag::END_STREAM;
    let whole = |method| headers(1, end, &request_block(method, &[]));
    vec![
        case("generic/4/1", "9113 8.1", "GET", Answered(1)).send([whole("GET")]),
        case("generic/4/2", "9113 8.1", "HEAD", Answered(1)).send([whole("HEAD")]),
        case("generic/4/3", "9113 8.1", "POST", Answered(1))
            .send([post(1), data(1, end, b"hello")]),
        case("generic/4/4", "9113 8.1", "POST with trailers", Answered(1)).send([
            post(1),
            data(1, 0, b"hello"),
            headers(1, end, &block(&[("x-sum", "1")])),
        ]),
    ]
}

/// Header fields in every representation of RFC 7541 section 6, each behind a sound request.
fn generic_compression() -> Vec<Script> {
    // RFC 7541 appendix C.4: "custom-key", "custom-value", "no-cache".
    let name: [u8; 9] = [0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
    let value: [u8; 10] = [0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];
    let short: [u8; 7] = [0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
    let plain = |first: u8| [&[first][..], b"\x0acustom-key\x0ccustom-value"].concat();
    let coded = |first: u8| [&[first][..], &name, &value].concat();
    // 0x58: cache-control is entry 24 of the static table; 0x0f 0x09 is the same number behind a prefix of four bits.
    let named = |first: &[u8]| [first, b"\x08no-cache"].concat();
    let named_coded = |first: &[u8]| [first, &short].concat();
    let behind = |id, what, field: Vec<u8>| {
        let all = [request_block("GET", &[]), field].concat();
        case(id, "7541 6", what, Answered(1)).send([headers(1, flag::END_STREAM, &all)])
    };
    let indexed = [&[0x82, 0x86, 0x84][..], &literal(b":authority", b"a")].concat();
    let size_first = [&[0x20, 0x3f, 0xe1, 0x1f][..], &request_block("GET", &[])].concat();
    let entered = [request_block("GET", &[]), indexed_literal(b"x-a", b"1")].concat();
    let from_table = [request_block("GET", &[]), vec![0xbe]].concat();
    vec![
        case("generic/5/1", "7541 6.1", "indexed fields", Answered(1)).send([headers(
            1,
            flag::END_STREAM,
            &indexed,
        )]),
        behind("generic/5/2", "incremental, name indexed", named(&[0x58])),
        behind(
            "generic/5/3",
            "incremental, name indexed, Huffman",
            named_coded(&[0x58]),
        ),
        behind("generic/5/4", "incremental, new name", plain(0x40)),
        behind("generic/5/5", "incremental, new name, Huffman", coded(0x40)),
        behind(
            "generic/5/6",
            "without indexing, name indexed",
            named(&[0x0f, 0x09]),
        ),
        behind(
            "generic/5/7",
            "without indexing, name indexed, Huffman",
            named_coded(&[0x0f, 0x09]),
        ),
        behind("generic/5/8", "without indexing, new name", plain(0x00)),
        behind(
            "generic/5/9",
            "without indexing, new name, Huffman",
            coded(0x00),
        ),
        behind(
            "generic/5/10",
            "never indexed, name indexed",
            named(&[0x1f, 0x09]),
        ),
        behind(
            "generic/5/11",
            "never indexed, name indexed, Huffman",
            named_coded(&[0x1f, 0x09]),
        ),
        behind("generic/5/12", "never indexed, new name", plain(0x10)),
        behind(
            "generic/5/13",
            "never indexed, new name, Huffman",
            coded(0x10),
        ),
        case(
            "generic/5/14",
            "7541 6.3",
            "two changes of the table size first",
            Answered(1),
        )
        .send([headers(1, flag::END_STREAM, &size_first)]),
        case(
            "generic/5/15",
            "7541 2.3.2",
            "an entry of the dynamic table",
            Answered(3),
        )
        .send([
            headers(1, flag::END_STREAM, &entered),
            headers(3, flag::END_STREAM, &from_table),
        ]),
    ]
}

fn start_and_frames() -> Vec<Script> {
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
        .send([PREFACE.to_vec(), get(1)])
        .known("the h2 library reads on; nothing follows from it"),
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

fn states() -> Vec<Script> {
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

fn errors_and_extensions() -> Vec<Script> {
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

fn data_and_headers() -> Vec<Script> {
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

fn small_frames() -> Vec<Script> {
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

fn settings_frames() -> Vec<Script> {
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

fn ping_and_goaway() -> Vec<Script> {
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

fn flow_control() -> Vec<Script> {
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

fn continuations() -> Vec<Script> {
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

fn messages() -> Vec<Script> {
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
        .send([post(1), headers(1, end, &block(&[(":method", "GET")]))])
        .known(
            "the h2 library drops pseudo-header fields of trailers; nothing of them is passed on",
        ),
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

fn compression() -> Vec<Script> {
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
