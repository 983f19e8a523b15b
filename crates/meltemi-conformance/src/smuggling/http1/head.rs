//! Request lines, hosts and header lines.

use super::*;

pub(super) fn request_lines() -> Vec<Vector> {
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

pub(super) fn targets() -> Vec<Vector> {
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

pub(super) fn hosts() -> Vec<Vector> {
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

pub(super) fn header_lines() -> Vec<Vector> {
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
