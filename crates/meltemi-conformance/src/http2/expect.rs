//! The answers that a case may have. Pure: frames in, verdict out.

use super::frame::{Frame, code, flag, kind, setting};
use crate::report::Outcome;

/// What the proxy must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// A connection error (RFC 9113 section 5.4.1): GOAWAY with one of the codes, or the end of the connection.
    Connection(&'static [u32]),
    /// A stream error (section 5.4.2), or a connection error with one of the codes.
    Stream(u32, &'static [u32]),
    /// A malformed message (section 8.1.1): a stream error, before which a server may answer 400.
    Malformed(u32),
    /// The stream is answered to its end.
    Answered(u32),
    /// A PING that is sent behind everything is answered: nothing was wrong.
    Alive,
    /// This many SETTINGS are acknowledged.
    Acknowledged(usize),
    /// So many bytes of DATA come on the stream, and no more.
    Data(u32, usize),
    /// As [`Self::Stream`], unless the proxy has no limit that could be passed.
    RefusedOrUnlimited,
}

/// The PING that tells that everything before it was read.
pub(super) const MARK: [u8; 8] = *b"meltemi!";

impl Expect {
    pub(super) fn text(self) -> String {
        let names = |codes: &[u32]| {
            let names: Vec<String> = codes.iter().map(|c| code::name(*c)).collect();
            names.join("/")
        };
        match self {
            Self::Connection(codes) if codes.len() > 2 => "connection error".to_owned(),
            Self::Connection(codes) => format!("connection {}", names(codes)),
            Self::Stream(_, codes) => format!("stream {}", names(codes)),
            Self::Malformed(_) => "stream PROTOCOL_ERROR or 400".to_owned(),
            Self::Answered(_) => "answer".to_owned(),
            Self::Alive => "goes on".to_owned(),
            Self::Acknowledged(_) => "SETTINGS ACK".to_owned(),
            Self::Data(_, length) => format!("{length} bytes of DATA"),
            Self::RefusedOrUnlimited => "stream REFUSED_STREAM".to_owned(),
        }
    }

    /// The verdict, once there is one; at the end `is_over` says that nothing more comes.
    pub(super) fn judge(self, heard: &[Frame], is_closed: bool, is_over: bool) -> Option<Outcome> {
        let goaway = heard
            .iter()
            .find(|f| f.kind == kind::GOAWAY && f.code() != Some(0));
        let last = || Outcome::bad(summary(heard, is_closed));
        // RFC 9113 section 5.4: a generic code can always stand for a more specific one.
        let is_generic = |c| matches!(c, code::PROTOCOL_ERROR | code::INTERNAL_ERROR);
        let among = |frame: &Frame, codes: &[u32]| {
            frame
                .code()
                .is_some_and(|c| is_generic(c) || codes.contains(&c))
        };
        let verdict = |frame: &Frame, codes: &[u32]| {
            let name = code::name(frame.code().unwrap_or_default());
            if among(frame, codes) {
                Outcome::good(name)
            } else {
                Outcome::bad(name)
            }
        };
        let decided = match self {
            Self::Connection(codes) => goaway.map(|frame| verdict(frame, codes)),
            Self::Stream(stream, codes) => reset(heard, stream)
                .or(goaway)
                .map(|frame| verdict(frame, codes)),
            Self::Malformed(stream) => {
                let codes = &[code::PROTOCOL_ERROR];
                let refused = heard.iter().any(|f| {
                    f.stream == stream && f.kind == kind::HEADERS && f.indexed_status() == Some(400)
                });
                reset(heard, stream)
                    .or(goaway)
                    .map(|frame| verdict(frame, codes))
                    .or_else(|| refused.then(|| Outcome::good("400")))
            }
            Self::RefusedOrUnlimited => {
                let codes = &[
                    code::REFUSED_STREAM,
                    code::PROTOCOL_ERROR,
                    code::ENHANCE_YOUR_CALM,
                ];
                let resets = |f: &&Frame| f.kind == kind::RST_STREAM || f.kind == kind::GOAWAY;
                heard
                    .iter()
                    .find(resets)
                    .map(|frame| verdict(frame, codes))
                    .or_else(|| (stream_limit(heard) > TOO_MANY).then(|| Outcome::good("no limit")))
            }
            Self::Answered(stream) => {
                let ends = |f: &&Frame| f.stream == stream && f.ends_stream();
                let ended = heard.iter().find(ends).map(|_| Outcome::good("answered"));
                ended.or_else(|| reset(heard, stream).or(goaway).map(|_| last()))
            }
            Self::Alive => {
                let is_mark =
                    |f: &Frame| f.kind == kind::PING && f.has(flag::ACK) && f.payload == MARK;
                let answered = heard.iter().any(is_mark).then(|| Outcome::good("goes on"));
                goaway.map(|_| last()).or(answered)
            }
            Self::Acknowledged(count) => {
                let is_ack = |f: &&Frame| f.kind == kind::SETTINGS && f.has(flag::ACK);
                let count = heard.iter().filter(is_ack).count() >= count;
                count.then(|| Outcome::good("acknowledged"))
            }
            Self::Data(stream, length) => match received(heard, stream) {
                total if total > length => Some(Outcome::bad(format!("{total} bytes"))),
                total if total == length && is_over => {
                    Some(Outcome::good(format!("{total} bytes")))
                }
                _ => None,
            },
        };
        decided.or_else(|| match self {
            _ if !is_over => None,
            Self::Connection(_)
            | Self::Stream(..)
            | Self::Malformed(_)
            | Self::RefusedOrUnlimited
                if is_closed =>
            {
                Some(Outcome::good("closed"))
            }
            _ => Some(last()),
        })
    }
}

/// A limit of streams beyond which a case does not try it out.
pub(super) const TOO_MANY: u32 = 2000;

/// The proxy's `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(super) fn stream_limit(heard: &[Frame]) -> u32 {
    heard
        .iter()
        .filter(|f| f.kind == kind::SETTINGS)
        .flat_map(|f| f.payload.chunks_exact(6))
        .filter_map(|entry| {
            let (id, value) = entry.split_at_checked(2)?;
            let is_limit = id == setting::MAX_CONCURRENT_STREAMS.to_be_bytes();
            is_limit.then_some(u32::from_be_bytes(value.try_into().ok()?))
        })
        .next_back()
        .unwrap_or(u32::MAX)
}

/// Bytes of DATA on a stream.
pub(super) fn received(heard: &[Frame], stream: u32) -> usize {
    let of_stream = |f: &&Frame| f.kind == kind::DATA && f.stream == stream;
    heard
        .iter()
        .filter(of_stream)
        .map(|f| f.payload.len())
        .sum()
}

fn reset(heard: &[Frame], stream: u32) -> Option<&Frame> {
    heard
        .iter()
        .find(|f| f.kind == kind::RST_STREAM && f.stream == stream)
}

/// What was heard, in few words.
pub(super) fn summary(heard: &[Frame], is_closed: bool) -> String {
    let word = |frame: &Frame| match (frame.kind, frame.code()) {
        (kind::RST_STREAM, Some(code)) => Some(format!("RST {}", code::name(code))),
        (kind::GOAWAY, Some(code)) => Some(format!("GOAWAY {}", code::name(code))),
        (kind::HEADERS, _) => Some(
            frame
                .indexed_status()
                .map_or_else(|| "HEADERS".to_owned(), |status| status.to_string()),
        ),
        (kind::DATA, _) => Some(format!("DATA {}", frame.payload.len())),
        (kind::PING, _) => Some("PING".to_owned()),
        _ => None,
    };
    let mut words: Vec<String> = heard.iter().filter_map(word).take(6).collect();
    if is_closed {
        words.push("closed".to_owned());
    }
    if words.is_empty() {
        "silence".to_owned()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame::{goaway, headers, ping, rst_stream};

    fn heard(frames: &[Vec<u8>]) -> Vec<Frame> {
        let mut bytes = frames.concat();
        std::iter::from_fn(|| Frame::take(&mut bytes)).collect()
    }

    fn check(expect: Expect, frames: &[Vec<u8>], is_closed: bool, expected: Option<bool>) {
        let found = expect.judge(&heard(frames), is_closed, is_closed);
        assert_eq!(found.as_ref().map(|f| f.ok), expected, "{found:?}");
    }

    #[test]
    fn connection_errors() {
        let expect = Expect::Connection(&[code::PROTOCOL_ERROR]);
        check(expect, &[goaway(0, 1)], false, Some(true));
        check(expect, &[goaway(0, 2)], false, Some(true));
        check(expect, &[goaway(0, 8)], false, Some(false));
        check(expect, &[goaway(0, 0)], false, None);
        check(expect, &[], true, Some(true));
        check(expect, &[rst_stream(1, 1)], false, None);
    }

    #[test]
    fn stream_errors() {
        let expect = Expect::Stream(1, &[code::STREAM_CLOSED]);
        check(expect, &[rst_stream(1, 5)], false, Some(true));
        check(expect, &[rst_stream(3, 5)], false, None);
        check(expect, &[goaway(0, 5)], false, Some(true));
        let malformed = Expect::Malformed(1);
        check(malformed, &[headers(1, 0, &[0x8c])], false, Some(true));
        check(malformed, &[headers(1, 0, &[0x88])], false, None);
    }

    #[test]
    fn a_ping_behind_an_error_is_no_excuse() {
        let mut pong = ping(MARK);
        pong[4] = flag::ACK;
        check(Expect::Alive, &[pong.clone()], false, Some(true));
        check(Expect::Alive, &[goaway(0, 1), pong], false, Some(false));
    }
}
