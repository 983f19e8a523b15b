//! What every server does.

use super::*;

pub(super) fn generic() -> Vec<Script> {
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

pub(super) fn generic_frames() -> Vec<Script> {
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

pub(super) fn generic_messages() -> Vec<Script> {
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
pub(super) fn generic_compression() -> Vec<Script> {
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
