use super::*;

const RULES: HeadRules = HeadRules {
    max_bytes: 4096,
    max_fields: 10,
    allow_chunked_length: false,
};

fn scan_with(head: &[u8], rules: &HeadRules) -> Result<ScannedHead, Malformed> {
    let bytes = [head, b"GET /next HTTP/1.1\r\n"].concat();
    let whole = HeadScanner::default()
        .scan(&bytes, rules)
        .map(|head| head.expect("it is complete"));
    // Cut anywhere, it reads the same.
    let mut scanner = HeadScanner::default();
    let cut = (1..=bytes.len()).find_map(|len| scanner.scan(&bytes[..len], rules).transpose());
    assert_eq!(
        cut.expect("it is complete"),
        whole,
        "byte by byte: {}",
        head.escape_ascii()
    );
    whole
}

fn check(head: &[u8], expected: Result<Framing, Malformed>) {
    let found = scan_with(head, &RULES);
    if let Ok(found) = found {
        assert_eq!(found.len, head.len(), "{}", head.escape_ascii());
    }
    assert_eq!(
        found.map(|found| found.framing),
        expected,
        "{}",
        head.escape_ascii()
    );
}

/// A request with these bytes after `Host: a`.
fn fields(rest: &[u8], expected: Result<Framing, Malformed>) {
    check(
        &[b"POST / HTTP/1.1\r\nHost: a\r\n", rest, b"\r\n"].concat(),
        expected,
    );
}

#[test]
fn well_formed_heads_pass() {
    let none = Ok(Framing::Length(0));
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", none);
    check(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", none);
    check(b"GET /a?b=c%20d;e HTTP/1.0\r\n\r\n", none);
    check(b"GET http://a:80/b HTTP/1.1\r\nHost: a:80\r\n\r\n", none);
    check(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", none);
    check(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", none);
    check(
        "GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(),
        none,
    );
    fields(b"Content-Length: 5\r\n", Ok(Framing::Length(5)));
    fields(b"content-length:\t5 \r\n", Ok(Framing::Length(5)));
    fields(
        b"Content-Length: 18446744073709551615\r\n",
        Ok(Framing::Length(u64::MAX)),
    );
    fields(b"Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked));
    fields(b"Accept:\r\nX-Latin: \xe9\tb\r\n", none);
}

/// C01, C06: the length of a body is said once, in one way.
#[test]
fn transfer_encodings() {
    use Malformed as M;
    for (rest, expected) in [
        (
            &b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"[..],
            M::DuplicateTransferEncoding,
        ),
        (
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            M::DuplicateTransferEncoding,
        ),
        (
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            M::TransferEncoding,
        ),
        (
            b"Transfer-Encoding: chunked, identity\r\n",
            M::TransferEncoding,
        ),
        (b"Transfer-Encoding: identity\r\n", M::TransferEncoding),
        (b"Transfer-Encoding: xchunked\r\n", M::TransferEncoding),
        (b"Transfer-Encoding: chunked;q=1\r\n", M::TransferEncoding),
        (b"Transfer-Encoding: \"chunked\"\r\n", M::TransferEncoding),
        (b"Transfer-Encoding:\r\n", M::TransferEncoding),
        (
            b"Transfer-Encoding: gzip, chunked\r\n",
            M::UnknownTransferCoding,
        ),
        (
            b"Transfer-Encoding: chunked, chunked\r\n",
            M::UnknownTransferCoding,
        ),
        (b"Transfer-Encoding: \x0bchunked\r\n", M::HeaderValue),
        (
            b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            M::LengthAndChunked,
        ),
        (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            M::LengthAndChunked,
        ),
    ] {
        fields(rest, Err(expected));
    }
    check(
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(M::TransferEncoding),
    );
    let lenient = HeadRules {
        allow_chunked_length: true,
        ..RULES
    };
    let both = b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        scan_with(both, &lenient).map(|head| head.framing),
        Ok(Framing::Chunked)
    );
}

/// C02.
#[test]
fn content_lengths() {
    for value in [
        "+5",
        "-5",
        "0x5",
        "1_0",
        "5, 6",
        "5,5",
        "",
        "5 5",
        "5\u{b2}",
        "18446744073709551616",
        "5;",
    ] {
        fields(
            format!("Content-Length: {value}\r\n").as_bytes(),
            Err(Malformed::ContentLength),
        );
    }
    fields(
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        Err(Malformed::ContentLength),
    );
    fields(
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        Err(Malformed::ContentLength),
    );
    check(
        b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
        Err(Malformed::ConnectWithBody),
    );
    check(
        b"CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(Malformed::ConnectWithBody),
    );
}

/// C10 and the leniences of RFC 9112 sections 2.2 and 5.
#[test]
fn lines_and_names() {
    use Malformed as M;
    for (rest, expected) in [
        (&b"A: b\n"[..], M::BareLineFeed),
        (b"A: b\r\n c\r\n", M::FoldedLine),
        (b"A: b\r\n\tc\r\n", M::FoldedLine),
        (b" A: b\r\n", M::FoldedLine),
        (b"A : b\r\n", M::HeaderName),
        (b"A\t: b\r\n", M::HeaderName),
        (b"A b: c\r\n", M::HeaderName),
        (b": b\r\n", M::HeaderName),
        (b"A\r\n", M::HeaderName),
        (b"A(b): c\r\n", M::HeaderName),
        (b"Content-Length\x00: 5\r\n", M::HeaderName),
        (b"\xc4\xb1: b\r\n", M::HeaderName),
        (b"A: b\x00c\r\n", M::HeaderValue),
        (b"A: b\rc\r\n", M::HeaderValue),
        (b"A: b\r\r\n", M::HeaderValue),
        (b"A: b\x7f\r\n", M::HeaderValue),
        (b"A: b\x1b[0m\r\n", M::HeaderValue),
    ] {
        fields(rest, Err(expected));
    }
    check(b"GET / HTTP/1.1\nHost: a\n\n", Err(M::BareLineFeed));
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\n", Err(M::BareLineFeed));
}

#[test]
fn request_lines() {
    use Malformed as M;
    for (line, expected) in [
        (&b"GET /"[..], M::RequestLine),
        (b"GET", M::RequestLine),
        (b"GET  / HTTP/1.1", M::RequestLine),
        (b"GET /  HTTP/1.1", M::RequestLine),
        (b"GET / HTTP/1.1 ", M::RequestLine),
        (b"GET\t/\tHTTP/1.1", M::RequestLine),
        (b"GET /a b HTTP/1.1", M::RequestLine),
        (b"GET / http/1.1", M::RequestLine),
        (b"GET / HTTP/1.1\x00", M::RequestLine),
        (b"GET / HTTP/01.1", M::RequestLine),
        (b"G(T / HTTP/1.1", M::RequestLine),
        (b" GET / HTTP/1.1", M::RequestLine),
        (b"\x16\x03\x01\x02", M::RequestLine),
        (b"GET / HTTP/1.2", M::Version),
        (b"GET / HTTP/2.0", M::Version),
        (b"PRI * HTTP/2.0", M::Version),
        (b"GET a HTTP/1.1", M::Path),
        (b"GET * HTTP/1.1", M::Path),
        (b"GET ftp://a/ HTTP/1.1", M::Path),
        (b"GET /a\x00b HTTP/1.1", M::Path),
        (b"GET /a\rb HTTP/1.1", M::Path),
        (b"CONNECT /a HTTP/1.1", M::Path),
        (b"GET /admin#x HTTP/1.1", M::Fragment),
        (b"GET http://a/b#c HTTP/1.1", M::Fragment),
    ] {
        check(&[line, b"\r\nHost: a\r\n\r\n"].concat(), Err(expected));
    }
    check(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Err(M::RequestLine));
    check(b"\nGET / HTTP/1.1\r\n\r\n", Err(M::BareLineFeed));
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let many = "A: b\r\n".repeat(10);
    fields(many.as_bytes(), Err(Malformed::HeadTooLarge));
    fields(
        format!("A: {}\r\n", "b".repeat(4096)).as_bytes(),
        Err(Malformed::HeadTooLarge),
    );
    // Also before the first line is complete.
    let mut scanner = HeadScanner::default();
    assert_eq!(scanner.scan(&[b'A'; 4095], &RULES), Ok(None));
    assert_eq!(
        scanner.scan(&[b'A'; 4096], &RULES),
        Err(Malformed::HeadTooLarge)
    );
}

#[test]
fn what_may_become_a_tunnel_is_known() {
    let asks = |head: &[u8]| scan_with(head, &RULES).map(|head| head.asks_tunnel);
    assert_eq!(
        asks(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        Ok(true)
    );
    assert_eq!(
        asks(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n"),
        Ok(false)
    );
    assert_eq!(asks(b"CONNECT a:1 HTTP/1.1\r\n\r\n"), Ok(true));
    assert_eq!(
        asks(b"GET / HTTP/1.1\r\nConnection: upgrade\r\n\r\n"),
        Ok(false)
    );
}
