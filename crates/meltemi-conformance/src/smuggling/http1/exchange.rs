//! What concerns the connection and what comes behind a request.

use super::*;

pub(super) fn hop_by_hop() -> Vec<Vector> {
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

pub(super) fn sequences() -> Vec<Vector> {
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

pub(super) fn upgrades() -> Vec<Vector> {
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
