//! Where a body ends.

use super::*;

pub(super) fn lengths() -> Vec<Vector> {
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

pub(super) fn encodings() -> Vec<Vector> {
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

pub(super) fn chunks() -> Vec<Vector> {
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

pub(super) fn trailers() -> Vec<Vector> {
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
