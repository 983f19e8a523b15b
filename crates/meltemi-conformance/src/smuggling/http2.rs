//! Requests as HTTP/2 header fields and content.

use super::Fields;
use super::Verdict::{self, Either, Pass, Refuse, RefuseBody};

const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

pub(super) fn vectors() -> Vec<Fields> {
    let mut all = pseudo_headers();
    all.extend(fields());
    all.extend(content());
    all
}

/// A request whose pseudo-header fields are these.
fn start(name: &'static str, verdict: Verdict, fields: &[(&'static str, &'static str)]) -> Fields {
    Fields::new(name, "RFC 9113 8.3", verdict, fields)
}

/// `GET http://a/v` with further fields.
fn with(name: &'static str, verdict: Verdict, more: &[(&'static str, &'static str)]) -> Fields {
    let mut fields = crate::http2::frame::REQUEST.to_vec();
    fields.extend_from_slice(more);
    Fields::new(name, "RFC 9113 8.2", verdict, &fields)
}

/// The same as POST, with content.
fn post(
    name: &'static str,
    verdict: Verdict,
    more: &[(&'static str, &'static str)],
    content: &'static str,
) -> Fields {
    let mut made = with(name, verdict, more).content(content);
    if let Some(method) = made.fields.first_mut() {
        method.1 = "POST";
    }
    made
}

fn pseudo_headers() -> Vec<Fields> {
    let path = |name, verdict, path: &'static str| {
        start(
            name,
            verdict,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "a"),
            ],
        )
    };
    let method = |name, verdict, method: &'static str| {
        start(
            name,
            verdict,
            &[
                (":method", method),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
            ],
        )
    };
    let scheme = |name, verdict, scheme: &'static str| {
        start(
            name,
            verdict,
            &[
                (":method", "GET"),
                (":scheme", scheme),
                (":path", "/v"),
                (":authority", "a"),
            ],
        )
    };
    let authority = |name, verdict, authority: &'static str| {
        start(
            name,
            verdict,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", authority),
            ],
        )
    };
    vec![
        path("path-blank", Refuse, "/v HTTP/1.1"),
        path(
            "path-crlf",
            Refuse,
            "/v HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled",
        ),
        path("path-lf", Refuse, "/v\nx"),
        path("path-nul", Refuse, "/v\0"),
        path("path-tab", Refuse, "/v\tx"),
        path("path-empty", Refuse, ""),
        path("path-relative", Refuse, "v"),
        path("path-asterisk-get", Refuse, "*"),
        path("path-fragment", Refuse, "/v#x"),
        path("path-absolute", Refuse, "http://b/v"),
        method("method-crlf", Refuse, "GET /smuggled HTTP/1.1\r\nx:"),
        method("method-blank", Refuse, "GET /smuggled"),
        method("method-empty", Refuse, ""),
        scheme("scheme-injection", Refuse, "http://b/smuggled?"),
        scheme("scheme-upper-case", Either, "HtTp"),
        authority("authority-userinfo", Refuse, "u@a"),
        authority("authority-path", Refuse, "a/smuggled"),
        authority("authority-blank", Refuse, "a b"),
        authority("authority-crlf", Refuse, "a\r\nx: smuggled"),
        authority("authority-list", Refuse, "a, b"),
        authority("authority-empty", Refuse, ""),
        start(
            "authority-missing-with-host",
            Either,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                ("host", "a"),
            ],
        ),
        start(
            "method-twice",
            Refuse,
            &[
                (":method", "GET"),
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
            ],
        ),
        start(
            "path-twice",
            Refuse,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                (":path", "/smuggled"),
                (":authority", "a"),
            ],
        ),
        start(
            "authority-twice",
            Refuse,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
                (":authority", "b"),
            ],
        ),
        start(
            "path-after-a-field",
            Refuse,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                ("x", "y"),
                (":path", "/v"),
                (":authority", "a"),
            ],
        ),
        start(
            "pseudo-header-unknown",
            Refuse,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
                (":smuggled", "y"),
            ],
        ),
        start(
            "pseudo-header-of-responses",
            Refuse,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
                (":status", "200"),
            ],
        ),
        start(
            "connect",
            Refuse,
            &[(":method", "CONNECT"), (":authority", "a:80")],
        ),
        start(
            "connect-extended-unoffered",
            Either,
            &[
                (":method", "CONNECT"),
                (":protocol", "smuggled"),
                (":scheme", "http"),
                (":path", "/v"),
                (":authority", "a"),
            ],
        ),
    ]
}

fn fields() -> Vec<Fields> {
    vec![
        with("encoding", Refuse, &[("transfer-encoding", "chunked")]),
        with("connection", Refuse, &[("connection", "x-hop")]),
        with("keep-alive", Refuse, &[("keep-alive", "timeout=5")]),
        with("proxy-connection", Refuse, &[("proxy-connection", "close")]),
        with("upgrade", Refuse, &[("upgrade", "websocket")]),
        with("te-gzip", Refuse, &[("te", "gzip")]),
        with("te-trailers", Pass, &[("te", "trailers")]),
        with("name-upper-case", Refuse, &[("X-Up", "y")]),
        with("name-blank", Refuse, &[("x y", "z")]),
        with("name-colon", Refuse, &[("x: smuggled\r\ny", "z")]),
        with("name-crlf", Refuse, &[("x\r\nsmuggled", "z")]),
        with("name-empty", Refuse, &[("", "z")]),
        with("name-high-byte", Refuse, &[("x\u{e9}", "z")]),
        with("value-crlf", Refuse, &[("x", "y\r\nsmuggled: z")]),
        with(
            "value-two-crlf",
            Refuse,
            &[("x", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")],
        ),
        with("value-cr", Refuse, &[("x", "y\rz")]),
        with("value-lf", Refuse, &[("x", "y\nz")]),
        with("value-nul", Refuse, &[("x", "y\0z")]),
        with("value-leading-blank", Either, &[("x", " y")]),
        with("value-trailing-blank", Either, &[("x", "y ")]),
        with("host-agrees", Either, &[("host", "a")]),
        with("host-differs", Refuse, &[("host", "b")]),
        with("host-twice", Refuse, &[("host", "a"), ("host", "b")]),
        with(
            "cookies-joined",
            Pass,
            &[("cookie", "a=1"), ("cookie", "b=2")],
        )
        .needs("a=1; b=2"),
        with(
            "client-cert-forged",
            Pass,
            &[("x-forwarded-client-cert", "URI=spiffe://forged")],
        )
        .never("spiffe://forged"),
    ]
}

fn content() -> Vec<Fields> {
    vec![
        post("content", Pass, &[], "hello").needs("hello"),
        post("content-is-a-request", Pass, &[], NEXT),
        post("length-agrees", Pass, &[("content-length", "5")], "hello").needs("hello"),
        post(
            "length-too-small",
            RefuseBody,
            &[("content-length", "2")],
            "hello",
        ),
        post(
            "length-too-large",
            RefuseBody,
            &[("content-length", "50")],
            "hello",
        ),
        post("length-zero", RefuseBody, &[("content-length", "0")], NEXT),
        post("length-plus", Refuse, &[("content-length", "+5")], "hello"),
        post(
            "length-list",
            Refuse,
            &[("content-length", "5, 6")],
            "hello",
        ),
        post("length-empty", Refuse, &[("content-length", "")], "hello"),
        post(
            "length-beyond-u64",
            Refuse,
            &[("content-length", "18446744073709551621")],
            "hello",
        ),
        post(
            "length-twice",
            Refuse,
            &[("content-length", "5"), ("content-length", "6")],
            "hello",
        ),
        with(
            "length-and-end-of-stream",
            Refuse,
            &[("content-length", "5")],
        ),
        post(
            "encoding-with-content",
            Refuse,
            &[("transfer-encoding", "chunked")],
            "0\r\n\r\n",
        ),
        post("trailer", Pass, &[], "hello")
            .trailer(&[("x-sum", "1")])
            .needs("hello"),
        post("trailer-pseudo-header", RefuseBody, &[], "hello")
            .trailer(&[(":path", "/smuggled")])
            .never("smuggled"),
        post("trailer-length", Either, &[], "hello").trailer(&[("content-length", "50")]),
        post("trailer-encoding", RefuseBody, &[], "hello")
            .trailer(&[("transfer-encoding", "chunked")]),
        post("trailer-crlf", RefuseBody, &[], "hello")
            .trailer(&[("x", "y\r\n\r\nGET /smuggled HTTP/1.1")]),
        post("trailer-without-end", RefuseBody, &[], "hello")
            .trailer(&[("x", "y")])
            .unended(),
    ]
}
