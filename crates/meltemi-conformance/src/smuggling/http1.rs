//! Requests as HTTP/1 bytes.

mod exchange;
mod framing;
mod head;
use super::Verdict::{Either, Pass, Refuse, RefuseBody};
use super::{Vector, Verdict};
use crate::rig::upstream::Answer;

/// A second request; where it arrives as one that was not sent as one, the case is lost.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE_REFUSED: Answer = Answer::RawKept(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

/// Every vector.
pub(super) fn vectors() -> Vec<Vector> {
    let mut all = framing::lengths();
    all.extend(framing::encodings());
    all.extend(framing::chunks());
    all.extend(framing::trailers());
    all.extend(head::request_lines());
    all.extend(head::targets());
    all.extend(head::hosts());
    all.extend(head::header_lines());
    all.extend(exchange::hop_by_hop());
    all.extend(exchange::sequences());
    all.extend(exchange::upgrades());
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
