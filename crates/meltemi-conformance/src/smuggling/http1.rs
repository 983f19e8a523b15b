//! Requests as HTTP/1 bytes.

use super::Verdict::{Either, Pass, Refuse, RefuseBody};
use super::{Vector, Verdict};
use crate::rig::upstream::Answer;

/// A second request; where it arrives as one that was not sent as one, the case is lost.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE_REFUSED: Answer = Answer::RawKept(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

/// Every vector.
pub(super) fn vectors() -> Vec<Vector> {
    let mut all = lengths();
    all.extend(encodings());
    all.extend(chunks());
    all.extend(trailers());
    all.extend(request_lines());
    all.extend(targets());
    all.extend(hosts());
    all.extend(header_lines());
    all.extend(hop_by_hop());
    all.extend(sequences());
    all.extend(upgrades());
    all
}

/// A POST with these header lines and what follows the head.
fn post(
    name: &'static str,
    rule: &'static str,
    verdict: Verdict,
    lines: &str,
    rest: &str,
) -> Vector {
    raw(
        name,
        rule,
        verdict,
        format!("POST /v HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{rest}"),
    )
}

/// A GET with these header lines.
fn get(name: &'static str, rule: &'static str, verdict: Verdict, lines: &str) -> Vector {
    raw(
        name,
        rule,
        verdict,
        format!("GET /v HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"),
    )
}

fn raw(
    name: &'static str,
    rule: &'static str,
    verdict: Verdict,
    bytes: impl Into<Vec<u8>>,
) -> Vector {
    Vector::new(name, rule, verdict, bytes.into())
}

fn lengths() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 6.2, 6.3";
    let refuse = |name, value: &str| {
        post(
            name,
            RULE,
            Refuse,
            &format!("Content-Length:{value}"),
            &format!("hello{NEXT}"),
        )
    };
    vec![
        refuse("length-plus", " +5"),
        refuse("length-minus", " -5"),
        refuse("length-hex", " 0x5"),
        refuse("length-underscore", " 1_0"),
        refuse("length-two-values", " 5, 6"),
        refuse("length-empty", ""),
        refuse("length-fraction", " 5.0"),
        refuse("length-two-numbers", " 5 5"),
        refuse("length-vertical-tab", " \x0b5"),
        refuse("length-form-feed", " 5\x0c"),
        refuse("length-beyond-u64", " 18446744073709551621"),
        refuse("length-other-digits", " \u{665}"),
        refuse("length-quoted", " \"5\""),
        refuse("length-exponent", " 5e0"),
        refuse("length-folded", "\r\n 5"),
        post(
            "length-twice-differing",
            RULE,
            Refuse,
            "Content-Length: 5\r\nContent-Length: 0",
            &format!("hello{NEXT}"),
        ),
        post(
            "length-twice-equal",
            RULE,
            Either,
            "Content-Length: 5\r\nContent-Length: 5",
            "hello",
        ),
        post(
            "length-list-equal",
            RULE,
            Either,
            "Content-Length: 5, 5",
            "hello",
        ),
        post(
            "length-leading-zeros",
            RULE,
            Either,
            "Content-Length: 005",
            "hello",
        ),
        post(
            "length-with-blanks",
            "RFC 9110 5.5",
            Pass,
            "Content-Length: \t 5 \t",
            "hello",
        )
        .needs("hello"),
        post(
            "length-space-before-colon",
            "RFC 9112 5.1",
            Refuse,
            "Content-Length : 5",
            &format!("hello{NEXT}"),
        ),
        get(
            "get-with-length",
            "RFC 9110 9.3.1",
            Either,
            "Content-Length: 0",
        ),
        raw(
            "get-with-body",
            "RFC 9110 9.3.1",
            Pass,
            "GET /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        )
        .needs("hello"),
        raw(
            "delete-with-body",
            "RFC 9110 9.3.5",
            Pass,
            "DELETE /v HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        )
        .needs("hello"),
    ]
}

fn encodings() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 6.1";
    let body = format!("0\r\n\r\n{NEXT}");
    let refuse = |name, value: &str| {
        post(
            name,
            RULE,
            Refuse,
            &format!("Transfer-Encoding:{value}"),
            &body,
        )
    };
    let both = |name, line: &str| {
        post(
            name,
            RULE,
            Refuse,
            &format!("Content-Length: {}\r\n{line}", body.len()),
            &body,
        )
    };
    vec![
        both("both-length-first", "Transfer-Encoding: chunked"),
        post(
            "both-encoding-first",
            RULE,
            Refuse,
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "5c\r\nhello",
        ),
        both("both-space-before-colon", "Transfer-Encoding : chunked"),
        both("both-tab-before-colon", "Transfer-Encoding\t: chunked"),
        both("both-folded-name", " Transfer-Encoding: chunked"),
        both("both-folded-value", "Transfer-Encoding:\r\n chunked"),
        both("both-vertical-tab", "Transfer-Encoding: \x0bchunked"),
        both("both-bare-cr", "X: y\rTransfer-Encoding: chunked"),
        both("both-bare-lf", "X: y\nTransfer-Encoding: chunked"),
        both("both-nul", "Transfer-Encoding: chunked\0"),
        both("both-identity", "Transfer-Encoding: identity"),
        both("both-unknown", "Transfer-Encoding: xchunked"),
        both("both-empty", "Transfer-Encoding:"),
        both("both-lower-case", "transfer-encoding: chunked"),
        both("both-upper-case", "TRANSFER-ENCODING: CHUNKED"),
        post(
            "both-underscore",
            RULE,
            Either,
            &format!(
                "Content-Length: {}\r\nTransfer_Encoding: chunked",
                body.len()
            ),
            &body,
        ),
        refuse("encoding-not-last", " chunked, gzip"),
        refuse("encoding-identity", " identity"),
        refuse("encoding-identity-last", " chunked, identity"),
        refuse("encoding-twice-in-list", " chunked, chunked"),
        refuse("encoding-unknown", " xchunked"),
        refuse("encoding-suffix", " chunkedx"),
        refuse("encoding-quoted", " \"chunked\""),
        refuse("encoding-split", " chun ked"),
        refuse("encoding-parameter", " chunked;q=1"),
        refuse("encoding-gzip", " gzip, chunked"),
        refuse("encoding-form-feed", " chunked\x0c"),
        refuse("encoding-empty", ""),
        post(
            "encoding-twice-other-last",
            RULE,
            Refuse,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            &body,
        ),
        post(
            "encoding-twice-chunked-last",
            RULE,
            Refuse,
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            &body,
        ),
        post(
            "encoding-twice-chunked",
            RULE,
            Refuse,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            &body,
        ),
        post(
            "encoding-empty-member",
            RULE,
            Either,
            "Transfer-Encoding: ,chunked",
            "0\r\n\r\n",
        ),
        post(
            "encoding-other-case",
            RULE,
            Pass,
            "Transfer-Encoding: ChUnKeD",
            "5\r\nhello\r\n0\r\n\r\n",
        )
        .needs("hello"),
        raw(
            "encoding-in-http10",
            RULE,
            Refuse,
            format!("POST /v HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
        ),
        raw(
            "both-in-http10",
            RULE,
            Refuse,
            format!("POST /v HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{body}", body.len()),
        ),
        raw(
            "get-chunked",
            "RFC 9110 9.3.1",
            Pass,
            "GET /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .needs("hello"),
    ]
}

/// A chunked POST: the head alone is sound.
fn chunked(name: &'static str, verdict: Verdict, body: &str) -> Vector {
    post(
        name,
        "RFC 9112 7.1",
        verdict,
        "Transfer-Encoding: chunked",
        body,
    )
}

fn chunks() -> Vec<Vector> {
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(80 << 10));
    let refuse = |name, size: &str| {
        chunked(
            name,
            RefuseBody,
            &format!("{size}\r\nhello\r\n0\r\n\r\n{NEXT}"),
        )
    };
    let pass = |name, size: &str| {
        chunked(name, Pass, &format!("{size}\r\nhello\r\n0\r\n\r\n")).needs("hello")
    };
    vec![
        refuse("chunk-size-beyond-u64", "10000000000000005"),
        refuse("chunk-size-prefixed", "0x5"),
        refuse("chunk-size-plus", "+5"),
        refuse("chunk-size-minus", "-5"),
        refuse("chunk-size-leading-blank", " 5"),
        refuse("chunk-size-not-hex", "5g"),
        refuse("chunk-size-underscore", "0_5"),
        refuse("chunk-size-empty", ""),
        refuse("chunk-size-extension-alone", ";x"),
        refuse("chunk-size-two", "5 5"),
        refuse("chunk-size-nul", "5\0"),
        refuse("chunk-extension-bare-cr", "5;a\rb"),
        refuse("chunk-extension-bare-lf", "5;a\nb"),
        chunked(
            "chunk-size-bare-lf",
            RefuseBody,
            &format!("5\nhello\r\n0\r\n\r\n{NEXT}"),
        ),
        chunked(
            "chunk-size-bare-cr",
            RefuseBody,
            &format!("5\rhello\r\n0\r\n\r\n{NEXT}"),
        ),
        chunked(
            "chunk-without-end",
            RefuseBody,
            &format!("5\r\nhello0\r\n\r\n{NEXT}"),
        ),
        chunked(
            "chunk-longer-than-said",
            RefuseBody,
            &format!("5\r\nhello!!\r\n0\r\n\r\n{NEXT}"),
        ),
        chunked(
            "chunk-end-bare-lf",
            RefuseBody,
            &format!("5\r\nhello\n0\r\n\r\n{NEXT}"),
        ),
        chunked(
            "chunk-end-bare-cr",
            RefuseBody,
            &format!("5\r\nhello\r0\r\n\r\n{NEXT}"),
        ),
        chunked("chunk-extension-endless", RefuseBody, &long_extension),
        pass("chunk-extension", "5;a=b"),
        pass("chunk-extension-quoted", "5;a=\"b;c\""),
        pass("chunk-extension-name", "5;a"),
        pass("chunk-size-leading-zeros", "0005"),
        chunked(
            "chunk-size-20-zeros",
            Either,
            "00000000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        chunked(
            "chunk-size-trailing-blank",
            Either,
            "5 \r\nhello\r\n0\r\n\r\n",
        ),
        chunked(
            "chunk-size-upper-case",
            Pass,
            "A\r\nhellohello\r\n0\r\n\r\n",
        )
        .needs("hellohello"),
        chunked("chunk-last-many-zeros", Pass, "5\r\nhello\r\n0000\r\n\r\n").needs("hello"),
        chunked(
            "chunk-content-like-an-end",
            Pass,
            "7\r\n0\r\n\r\nab\r\n0\r\n\r\n",
        )
        .needs("0\r\n\r\nab"),
    ]
}

fn trailers() -> Vec<Vector> {
    let trailer = |name, verdict, line: &str| {
        chunked(name, verdict, &format!("5\r\nhello\r\n0\r\n{line}\r\n\r\n"))
    };
    vec![
        trailer("trailer", Pass, "x-sum: 1").needs("hello"),
        trailer("trailer-length", Either, "Content-Length: 50"),
        trailer("trailer-encoding", Either, "Transfer-Encoding: chunked"),
        trailer("trailer-host", Either, "Host: b"),
        trailer("trailer-without-colon", RefuseBody, "xyz"),
        trailer("trailer-space-in-name", RefuseBody, "x y: z"),
        trailer("trailer-bare-cr", RefuseBody, "x: y\rz"),
        trailer("trailer-nul", RefuseBody, "x: y\0"),
        trailer(
            "trailer-endless",
            RefuseBody,
            &format!("x: {}", "y".repeat(200 << 10)),
        ),
    ]
}

fn request_lines() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 3";
    let refuse = |name, line: &str| raw(name, RULE, Refuse, format!("{line}\r\nHost: a\r\n\r\n"));
    vec![
        refuse("line-two-blanks", "GET  /v HTTP/1.1"),
        refuse("line-tabs", "GET\t/v\tHTTP/1.1"),
        refuse("line-leading-blank", " GET /v HTTP/1.1"),
        refuse("line-leading-nul", "\0GET /v HTTP/1.1"),
        refuse("line-trailing-word", "GET /v HTTP/1.1 x"),
        refuse("line-vertical-tab", "GET\x0b/v HTTP/1.1"),
        refuse("line-bare-cr", "GET /v\rX: y HTTP/1.1"),
        refuse("line-bare-lf", "GET /v\nX: y HTTP/1.1"),
        refuse("line-no-method", "/v HTTP/1.1"),
        refuse("line-no-target", "GET HTTP/1.1"),
        refuse("method-no-token", "G(T /v HTTP/1.1"),
        refuse("method-high-byte", "G\u{c4}T /v HTTP/1.1"),
        refuse("version-missing-minor", "GET /v HTTP/1"),
        refuse("version-lower-case", "GET /v http/1.1"),
        refuse("version-suffix", "GET /v HTTP/1.1x"),
        refuse("version-two-digits", "GET /v HTTP/1.10"),
        refuse("version-leading-zero", "GET /v HTTP/01.1"),
        refuse("version-2-in-1", "GET /v HTTP/2.0"),
        refuse("version-other-protocol", "GET /v ICY/1.1"),
        raw("version-0.9", RULE, Refuse, "GET /v\r\n\r\n"),
        raw(
            "preface-cut",
            "RFC 9113 3.4",
            Refuse,
            format!("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n{NEXT}"),
        ),
        raw(
            "line-empty-before",
            "RFC 9112 2.2",
            Either,
            "\r\nGET /v HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        raw(
            "lines-bare-lf",
            "RFC 9112 2.2",
            Refuse,
            "GET /v HTTP/1.1\nHost: a\n\n",
        ),
        raw(
            "version-1.2",
            RULE,
            Either,
            "GET /v HTTP/1.2\r\nHost: a\r\n\r\n",
        ),
        raw(
            "method-lower-case",
            "RFC 9110 9.1",
            Either,
            "get /v HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        raw(
            "line-8-kib",
            RULE,
            Pass,
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "v".repeat(8000)),
        ),
        raw(
            "line-200-kib",
            RULE,
            Refuse,
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "v".repeat(200 << 10)),
        ),
    ]
}

fn targets() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 3.2";
    let target = |name, verdict, target: &str| {
        raw(
            name,
            RULE,
            verdict,
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
        )
    };
    vec![
        target("target-fragment", Refuse, "/v#x"),
        target("target-fragment-alone", Refuse, "/#"),
        target("target-relative", Refuse, "v"),
        target("target-dots", Refuse, "../v"),
        target("target-query-alone", Refuse, "?x=/v"),
        target("target-asterisk-get", Refuse, "*"),
        target("target-blank", Refuse, "/v w"),
        target("target-nul", Refuse, "/v\0"),
        target("target-delete", Refuse, "/v\x7f"),
        target("target-tab", Refuse, "/v\tw"),
        target("target-no-host", Refuse, "http:///v"),
        target("target-userinfo", Refuse, "http://u@a/v"),
        target("target-other-scheme", Refuse, "ftp://a/v"),
        target("target-scheme-only", Refuse, "http:v"),
        target("target-high-byte", Either, "/\u{e9}"),
        target("target-two-slashes", Either, "//v"),
        target("target-absolute", Pass, "http://a/v"),
        target("target-absolute-other-host", Either, "http://b/v"),
        target("target-query", Pass, "/v?a=/../b"),
        target("target-dot-segments", Pass, "/x/../v").never("/../"),
        raw(
            "options-asterisk",
            "RFC 9112 3.2.4",
            Either,
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        raw(
            "connect",
            "RFC 9110 9.3.6",
            Refuse,
            format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n{NEXT}"),
        ),
        raw(
            "connect-with-path",
            "RFC 9112 3.2.3",
            Refuse,
            format!("CONNECT /v HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"),
        ),
    ]
}

fn hosts() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 3.2, RFC 9110 7.2";
    let host = |name, verdict, lines: &str| {
        raw(
            name,
            RULE,
            verdict,
            format!("GET /v HTTP/1.1\r\n{lines}\r\n"),
        )
    };
    vec![
        host("host-missing", Refuse, "X: y\r\n"),
        host("host-twice-differing", Refuse, "Host: a\r\nHost: b\r\n"),
        host("host-twice-equal", Refuse, "Host: a\r\nHost: a\r\n"),
        host("host-list", Refuse, "Host: a, b\r\n"),
        host("host-userinfo", Refuse, "Host: u@a\r\n"),
        host("host-path", Refuse, "Host: a/b\r\n"),
        host("host-blank", Refuse, "Host: a b\r\n"),
        host("host-tab", Refuse, "Host: a\tb\r\n"),
        host("host-query", Refuse, "Host: a?b\r\n"),
        host("host-fragment", Refuse, "Host: a#b\r\n"),
        host("host-port-no-number", Refuse, "Host: a:b\r\n"),
        host("host-bracket-open", Refuse, "Host: [::1\r\n"),
        host("host-backslash", Refuse, "Host: a\\b\r\n"),
        host("host-nul", Refuse, "Host: a\0b\r\n"),
        host("host-space-before-colon", Refuse, "Host : a\r\n"),
        host("host-folded", Refuse, "Host: a\r\n b\r\n"),
        host("host-high-byte", Refuse, "Host: \u{e9}\r\n"),
        host("host-empty", Either, "Host:\r\n"),
        host("host-port-too-large", Either, "Host: a:99999\r\n"),
        host("host-ipv6", Pass, "Host: [::1]:80\r\n"),
        host("host-port", Pass, "Host: a:8080\r\n"),
        host("host-upper-case", Pass, "HOST: A\r\n"),
    ]
}

fn header_lines() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 5, RFC 9110 5.5";
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    vec![
        get("value-nul", RULE, Refuse, "X: y\0z"),
        get("value-bare-cr", RULE, Refuse, "X: y\rz"),
        get("value-bare-lf", RULE, Refuse, "X: y\nz"),
        get("value-folded", "RFC 9112 5.2", Refuse, "X: y\r\n z"),
        get("value-folded-by-tab", "RFC 9112 5.2", Refuse, "X: y\r\n\tz"),
        get("name-missing", RULE, Refuse, ": y"),
        get("name-blank-inside", RULE, Refuse, "X Y: z"),
        get("name-blank-after", "RFC 9112 5.1", Refuse, "X : y"),
        get("name-no-token", RULE, Refuse, "X(: y"),
        get("name-nul", RULE, Refuse, "X\0: y"),
        get("name-high-byte", RULE, Refuse, "X\u{e9}: y"),
        get("name-leading-cr", RULE, Refuse, "\rX: y"),
        get("line-without-colon", RULE, Refuse, "xyz"),
        raw(
            "blank-before-first-line",
            "RFC 9112 2.2",
            Refuse,
            "GET /v HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n",
        ),
        get("lines-101", "bounded", Refuse, many.trim_end()),
        get(
            "value-70-kib",
            "bounded",
            Refuse,
            &format!("X: {}", "y".repeat(70 << 10)),
        ),
        get("value-delete", RULE, Either, "X: y\x7fz"),
        get("value-high-byte", RULE, Either, "X: \u{e9}"),
        get("value-blanks-trimmed", RULE, Pass, "x-case: \t y \t").needs("x-case: y\r\n"),
        get("value-empty", RULE, Pass, "X:"),
        get(
            "client-cert-forged",
            "C44",
            Pass,
            "x-forwarded-client-cert: URI=spiffe://forged",
        )
        .never("spiffe://forged"),
    ]
}

fn hop_by_hop() -> Vec<Vector> {
    const RULE: &str = "RFC 9110 7.6.1";
    vec![
        get(
            "connection-names-a-header",
            RULE,
            Pass,
            "Connection: x-hop\r\nx-hop: dropped",
        )
        .never("dropped"),
        get("connection-names-host", RULE, Either, "Connection: host"),
        post(
            "connection-names-length",
            RULE,
            Either,
            "Connection: content-length\r\nContent-Length: 40",
            NEXT,
        ),
        post(
            "connection-names-encoding",
            RULE,
            Either,
            "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
            &format!("{:x}\r\n{NEXT}\r\n0\r\n\r\n", NEXT.len()),
        ),
        get("keep-alive", RULE, Pass, "Keep-Alive: dropped").never("dropped"),
        get("proxy-connection", RULE, Pass, "Proxy-Connection: dropped").never("dropped"),
        get(
            "te-gzip",
            "RFC 9110 10.1.4",
            Pass,
            "TE: gzip\r\nConnection: TE",
        )
        .never("gzip"),
    ]
}

fn sequences() -> Vec<Vector> {
    const RULE: &str = "RFC 9112 9.3";
    let in_body = |name, answer| {
        post(
            name,
            "RFC 9112 9.6",
            Pass,
            &format!("Content-Length: {}", NEXT.len()),
            NEXT,
        )
        .answered(answer)
    };
    vec![
        raw(
            "pipelined-two",
            RULE,
            Pass,
            "GET /v HTTP/1.1\r\nHost: a\r\n\r\nGET /w HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .requests(2),
        post(
            "pipelined-after-length",
            RULE,
            Pass,
            "Content-Length: 5",
            "helloGET /w HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .requests(2),
        post(
            "pipelined-after-chunks",
            RULE,
            Pass,
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\nGET /w HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .requests(2),
        post(
            "after-close",
            "RFC 9112 9.6",
            Pass,
            "Connection: close\r\nContent-Length: 5",
            &format!("hello{NEXT}"),
        ),
        post(
            "crlf-after-body",
            "RFC 9112 2.2",
            Either,
            "Content-Length: 5",
            "hello\r\n",
        ),
        in_body("request-in-body", Answer::Whole),
        in_body("request-in-body-answered-early", Answer::Early),
        post(
            "request-in-chunk-answered-early",
            "RFC 9112 9.6",
            Pass,
            "Transfer-Encoding: chunked",
            &format!("{:x}\r\n{NEXT}\r\n0\r\n\r\n", NEXT.len()),
        )
        .answered(Answer::Early),
        post(
            "bad-chunk-answered-early",
            "RFC 9112 7.1",
            RefuseBody,
            "Transfer-Encoding: chunked",
            &format!("zz\r\n{NEXT}"),
        )
        .answered(Answer::Early),
        post(
            "body-after-refusal",
            "RFC 9112 9.6",
            Refuse,
            &format!("Host: b\r\nContent-Length: {}", NEXT.len()),
            NEXT,
        ),
        post(
            "expect-continue",
            "RFC 9110 10.1.1",
            Pass,
            "Expect: 100-continue\r\nContent-Length: 5",
            "hello",
        )
        .needs("hello"),
        post(
            "expect-unknown",
            "RFC 9110 10.1.1",
            Either,
            "Expect: y\r\nContent-Length: 5",
            "hello",
        ),
        raw(
            "http10",
            "RFC 9112 2.3",
            Either,
            "GET /v HTTP/1.0\r\nHost: a\r\n\r\n",
        ),
    ]
}

fn upgrades() -> Vec<Vector> {
    const RULE: &str = "RFC 9110 7.8";
    let behind = |name, lines: &str| {
        raw(
            name,
            RULE,
            Either,
            format!("GET /v HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n\x01not-http"),
        )
        .never("not-http")
        .answered(UPGRADE_REFUSED)
    };
    vec![
        behind(
            "upgrade-refused-with-bytes-behind",
            "Connection: Upgrade\r\nUpgrade: websocket",
        ),
        behind(
            "upgrade-unknown-with-bytes-behind",
            "Connection: Upgrade\r\nUpgrade: x",
        ),
        behind("upgrade-without-connection", "Upgrade: websocket"),
        post(
            "upgrade-h2c-with-body",
            "RFC 9113 3.1",
            Either,
            &format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {}", NEXT.len()),
            NEXT,
        )
        .never("h2c"),
        post(
            "upgrade-with-body",
            RULE,
            Either,
            &format!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {}", NEXT.len()),
            NEXT,
        )
        .answered(UPGRADE_REFUSED),
    ]
}
