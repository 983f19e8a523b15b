//! Responses of a hostile or broken upstream, as HTTP/1 bytes.

use super::Expectation;
use super::Verdict::{self, Either, Pass, Refuse, RefuseBody};
use crate::rig::upstream::Answer;

/// A response and the request that it answers.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) expectation: Expectation,
    pub(super) method: &'static str,
    /// How often the request is sent on one connection.
    pub(super) repeats: usize,
}

fn answer(
    name: &'static str,
    rule: &'static str,
    verdict: Verdict,
    bytes: &'static [u8],
) -> Response {
    let mut expectation = Expectation::new(name, rule, verdict);
    expectation.answer = Answer::Raw(bytes);
    Response {
        expectation,
        method: "GET",
        repeats: 1,
    }
}

impl Response {
    fn never(mut self, text: &'static str) -> Self {
        self.expectation.never = Some(text);
        self
    }

    fn needs(mut self, text: &'static str) -> Self {
        self.expectation.needs = Some(text);
        self
    }

    fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn twice_on_a_kept_connection(mut self) -> Self {
        if let Answer::Raw(bytes) = self.expectation.answer {
            self.expectation.answer = Answer::RawKept(bytes);
        }
        self.repeats = 2;
        self
    }
}

pub(super) fn vectors() -> Vec<Response> {
    let mut all = framing();
    all.extend(lines());
    all.extend(bodies());
    all.extend(interim());
    all
}

fn framing() -> Vec<Response> {
    const RULE: &str = "RFC 9112 6.3";
    vec![
        answer("response-length-plus", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
        answer("response-length-minus", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok"),
        answer("response-length-hex", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok"),
        answer("response-length-list", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok"),
        answer("response-length-beyond-u64", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nok"),
        answer("response-length-twice", RULE, Refuse, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
        answer("response-length-twice-equal", RULE, Either, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok"),
        answer("response-both", RULE, Either, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        answer("response-encoding-twice", RULE, Either, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        answer("response-encoding-and-http10", "RFC 9112 6.1", Either, b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        answer("response-until-close", RULE, Pass, b"HTTP/1.1 200 OK\r\n\r\nok until close").needs("ok until close"),
        answer("response-chunked", RULE, Pass, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n").needs("ok"),
        answer("response-http10", "RFC 9112 2.3", Pass, b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok").needs("ok"),
    ]
}

fn lines() -> Vec<Response> {
    const RULE: &str = "RFC 9112 4, 5";
    vec![
        answer(
            "response-other-protocol",
            RULE,
            Refuse,
            b"ICY 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-version",
            RULE,
            Refuse,
            b"HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-status-4-digits",
            RULE,
            Refuse,
            b"HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-status-2-digits",
            RULE,
            Refuse,
            b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer("response-no-head", RULE, Refuse, b"ok\r\n\r\n"),
        answer("response-empty", RULE, Refuse, b""),
        answer(
            "response-head-cut",
            RULE,
            Refuse,
            b"HTTP/1.1 200 OK\r\ncontent-le",
        ),
        answer(
            "response-value-nul",
            RULE,
            Refuse,
            b"HTTP/1.1 200 OK\r\nx: y\0z\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-value-bare-cr",
            RULE,
            Refuse,
            b"HTTP/1.1 200 OK\r\nx: y\rset-cookie: smuggled\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-name-blank",
            RULE,
            Refuse,
            b"HTTP/1.1 200 OK\r\nx y: z\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-line-without-colon",
            RULE,
            Refuse,
            b"HTTP/1.1 200 OK\r\nxyz\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-value-bare-lf",
            RULE,
            Either,
            b"HTTP/1.1 200 OK\r\nx: y\nz: w\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-value-folded",
            "RFC 9112 5.2",
            Either,
            b"HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 2\r\n\r\nok",
        ),
        answer(
            "response-reason-high-byte",
            RULE,
            Either,
            b"HTTP/1.1 200 \xe9\r\ncontent-length: 2\r\n\r\nok",
        ),
    ]
}

fn bodies() -> Vec<Response> {
    const RULE: &str = "RFC 9112 7.1, 8";
    vec![
        answer("response-cut", RULE, RefuseBody, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
        answer("response-chunks-cut", RULE, RefuseBody, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
        answer("response-chunk-size-not-hex", RULE, RefuseBody, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n\r\n"),
        answer("response-chunk-size-beyond-u64", RULE, RefuseBody, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n"),
        answer("response-chunk-without-end", RULE, RefuseBody, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n"),
        answer("response-204-with-body", "RFC 9110 15.3.5", Either, b"HTTP/1.1 204 No Content\r\ncontent-length: 8\r\n\r\nsmuggled").never("smuggled"),
        answer("response-304-with-body", "RFC 9110 15.4.5", Either, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 8\r\n\r\nsmuggled").never("smuggled"),
        answer("response-head-with-body", "RFC 9110 9.3.2", Either, b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled").to("HEAD").never("smuggled"),
        answer("response-behind-a-response", "RFC 9112 9.2", Pass, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled")
            .never("smuggled")
            .twice_on_a_kept_connection(),
        answer("response-behind-the-last-chunk", "RFC 9112 9.2", Pass, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled")
            .never("smuggled")
            .twice_on_a_kept_connection(),
    ]
}

fn interim() -> Vec<Response> {
    const RULE: &str = "RFC 9110 15.2";
    vec![
        answer("response-early-hints", RULE, Pass, b"HTTP/1.1 103 Early Hints\r\nlink: </s>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").needs("ok"),
        answer("response-unasked-continue", RULE, Pass, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").needs("ok"),
        answer("response-unasked-switch", "RFC 9110 7.8", Refuse, b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nsmuggled").never("smuggled"),
        answer("response-hop-by-hop", "RFC 9110 7.6.1", Pass, b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: dropped\r\ncontent-length: 2\r\n\r\nok").never("dropped"),
    ]
}
