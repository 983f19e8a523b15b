use super::*;

const SETTINGS_FRAME: [u8; 9] = [0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];
const ENDS: u8 = flag::END_HEADERS | flag::END_STREAM;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

fn headers(flags: u8, stream: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// What passes, read in pieces of `size`, and where the connection is cut.
fn pass(frames: &[Vec<u8>], size: usize) -> (Vec<u8>, bool) {
    let mut blocks = HeaderBlocks::default();
    let mut bytes = vec![0; PREFACE_BYTES as usize];
    bytes.extend(SETTINGS_FRAME);
    bytes.extend(frames.concat());
    let mut passed = Vec::new();
    for piece in bytes.chunks_mut(size) {
        match blocks.read(piece) {
            None => passed.extend_from_slice(piece),
            Some(End::BetweenFrames { passed: at } | End::InFrame { passed: at }) => {
                passed.extend_from_slice(&piece[..at]);
                return (passed.split_off(PREFACE_BYTES as usize + 9), true);
            }
        }
    }
    (passed.split_off(PREFACE_BYTES as usize + 9), false)
}

fn check(frames: &[Vec<u8>], expected: &[Vec<u8>]) {
    for size in [1, 2, 3, 7, 1000] {
        assert_eq!(pass(frames, size), (expected.concat(), false), "{size}");
    }
}

#[test]
fn a_fragment_becomes_what_is_refused() {
    for prefix in [0x04, 0x14, 0x44] {
        let sent = [vec![prefix], text("/v#x")].concat();
        let spoilt = [vec![prefix], text("/v>x")].concat();
        check(&[headers(ENDS, 1, &sent)], &[headers(ENDS, 1, &spoilt)]);
    }
    // By its own name, and behind padding and a priority.
    let named = |path: &str| [vec![0], text(":path"), text(path)].concat();
    let padded = |path: &str| [vec![2, 0, 0, 0, 0, 1], named(path), b"##".to_vec()].concat();
    let flags = ENDS | flag::PADDED | flag::PRIORITY;
    check(
        &[headers(flags, 1, &padded("/a?b#c"))],
        &[headers(flags, 1, &padded("/a?b>c"))],
    );
    // Other fields may have it.
    let other = [vec![0x40], text("x"), text("/v#x")].concat();
    check(&[headers(ENDS, 1, &other)], &[headers(ENDS, 1, &other)]);
}

#[test]
fn a_fragment_in_huffman_code_is_found() {
    // "/#" is 011000 111111111010, padded with ones; '>' ends in 1.
    let sent = vec![0x44, 0x83, 0b0110_0011, 0b1111_1110, 0b1011_1111];
    let spoilt = vec![0x44, 0x83, 0b0110_0011, 0b1111_1110, 0b1111_1111];
    check(&[headers(ENDS, 1, &sent)], &[headers(ENDS, 1, &spoilt)]);
}

#[test]
fn names_are_found_in_the_dynamic_table() {
    let first = headers(ENDS, 1, &[vec![0x44], text("/a")].concat());
    // 62 is the entry that was made last.
    let again = |path: &str| headers(ENDS, 3, &[vec![0x40 | 62], text(path)].concat());
    check(&[first.clone(), again("/#")], &[first, again("/>")]);
    // Another one in front of it moves it to 63.
    let two = headers(
        ENDS,
        1,
        &[vec![0x44], text("/a"), vec![0x40], text("x"), text("y")].concat(),
    );
    let again = |path: &str| headers(ENDS, 3, &[vec![0x7f, 0], text(path)].concat());
    check(&[two.clone(), again("/#")], &[two, again("/>")]);
    // A smaller table has lost it: 62 is no name any longer.
    let emptied = |path: &str| {
        headers(
            ENDS,
            3,
            &[
                vec![0x20, 0x3f, 0x61],
                vec![0x40],
                text("x"),
                text("y"),
                vec![0x40 | 62],
                text(path),
            ]
            .concat(),
        )
    };
    let first = headers(ENDS, 1, &[vec![0x44], text("/a")].concat());
    check(&[first.clone(), emptied("/#")], &[first, emptied("/#")]);
}

#[test]
fn trailers_with_a_pseudo_header_field_do_not_end_their_stream() {
    let request = headers(flag::END_HEADERS, 1, &[0x83, 0x84, 0x86]);
    let bad: [Vec<u8>; 4] = [
        vec![0x82],
        [vec![0x04], text("/x")].concat(),
        [vec![0], text(":method"), text("GET")].concat(),
        [vec![0], text("x"), text("y"), vec![0x81]].concat(),
    ];
    for trailers in bad {
        let frames = [request.clone(), headers(ENDS, 1, &trailers)];
        let spoilt = headers(flag::END_HEADERS, 1, &trailers);
        let expected = [request.clone(), spoilt].concat();
        assert_eq!(pass(&frames, 1000), (expected, false));
        // In pieces it is too late for that: the connection ends, with a frame that is none.
        let mut cut = frames.concat();
        cut.pop();
        for size in [1, 2] {
            let (passed, is_cut) = pass(&frames, size);
            assert!(is_cut && cut.starts_with(&passed), "{size}");
        }
    }
    let good = [vec![0], text("x-sum"), text("1")].concat();
    let frames = [request, headers(ENDS, 1, &good)];
    check(&frames, &frames);
}

#[test]
fn a_preface_without_settings_ends_the_connection() {
    let frame = headers(ENDS, 1, &[0x82]);
    for size in [1, 2, 3, 7, 1000] {
        let mut blocks = HeaderBlocks::default();
        let mut bytes = vec![0; PREFACE_BYTES as usize];
        bytes.extend(&frame);
        let mut passed = 0;
        let end = bytes.chunks_mut(size).find_map(|piece| {
            let end = blocks.read(piece);
            passed += if end.is_none() { piece.len() } else { 0 };
            end
        });
        let end = end.expect("it ends");
        let (End::BetweenFrames { passed: more } | End::InFrame { passed: more }) = end;
        passed += more;
        assert!(
            passed < PREFACE_BYTES as usize + 9,
            "{size}: a whole header passed"
        );
    }
}

#[test]
fn a_stream_that_depends_on_itself_ends_the_connection() {
    let flags = ENDS | flag::PRIORITY;
    let block =
        |dependency: u8| [vec![0, 0, 0, dependency, 16, 0x40], text("x"), text("y")].concat();
    for size in [1, 2, 3, 7, 1000] {
        let itself = headers(flags, 3, &block(3));
        let (passed, is_cut) = pass(&[itself.clone(), headers(ENDS, 5, &[0x82])], size);
        assert!(is_cut, "{size}");
        assert_eq!(passed, itself, "{size}: nothing behind it passes");
    }
    let other = headers(flags, 3, &block(1));
    check(std::slice::from_ref(&other), std::slice::from_ref(&other));
}

#[test]
fn what_is_no_hpack_is_the_librarys_business() {
    for block in [
        &[0x80][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x3f, 0xff, 0xff, 0x7f],
    ] {
        let frames = [headers(ENDS, 1, block), headers(ENDS, 3, &[0x04, 1, b'#'])];
        check(&frames, &frames);
    }
}
