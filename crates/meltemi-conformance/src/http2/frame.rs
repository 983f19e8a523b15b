//! HTTP/2 frames as bytes. Written by hand because most that are sent here are invalid on purpose; no shipping code does so.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 section 6.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// RFC 9113 section 7.
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;

    pub fn name(code: u32) -> String {
        let names = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        let name = usize::try_from(code).ok().and_then(|at| names.get(at));
        name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
    }
}

/// RFC 9113 section 6.5.2.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Takes the first whole frame off the front of `buffer`.
    pub fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let (head, rest) = buffer.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, s @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = rest.get(..length)?.to_vec();
        let frame = Self {
            kind,
            flags,
            stream: u32::from_be_bytes(s) & 0x7fff_ffff,
            payload,
        };
        buffer.drain(..9 + length);
        Some(frame)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the frame is the last of a message.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.has(flag::END_STREAM)
    }

    /// The code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// The status of a response, where it is written as an entry of HPACK's static table (RFC 7541 appendix A).
    pub fn indexed_status(&self) -> Option<u16> {
        // A change of the table size may come first (RFC 7541 section 6.3).
        let first = self.payload.iter().find(|byte| *byte & 0xe0 != 0x20)?;
        [200, 204, 206, 304, 400, 404, 500]
            .get(usize::from(first.checked_sub(0x88)?))
            .copied()
    }
}

/// Writes a frame, with whatever is asked for.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    headed(length, kind, flags, stream, payload)
}

/// The same with a length that may not be the payload's.
pub fn headed(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = length.to_be_bytes();
    let mut out = vec![a, b, c, kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in values {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

pub fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, &[])
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn ping(payload: [u8; 8]) -> Vec<u8> {
    frame(kind::PING, 0, 0, &payload)
}

pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

pub fn priority(stream: u32, depends_on: u32, weight: u8) -> Vec<u8> {
    let payload = [&depends_on.to_be_bytes()[..], &[weight]].concat();
    frame(kind::PRIORITY, 0, stream, &payload)
}

pub fn data(stream: u32, flags: u8, content: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, content)
}

/// A whole header section in one frame; END_HEADERS is added to `flags`.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

pub fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// A header field as it is: literal, never indexed by the reader, no Huffman code (RFC 7541 section 6.2.2).
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(&mut out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
    out
}

/// The same with an entry in the dynamic table (RFC 7541 section 6.2.1).
pub fn indexed_literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = literal(name, value);
    if let Some(first) = out.first_mut() {
        *first = 0x40;
    }
    out
}

/// An integer in the low `bits` of a byte that has `high` above them (RFC 7541 section 5.1).
pub fn integer(out: &mut Vec<u8>, high: u8, bits: u8, value: usize) {
    let limit = (1usize << bits) - 1;
    let low = |value: usize| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    if value < limit {
        out.push(high | low(value));
        return;
    }
    out.push(high | low(limit));
    let mut rest = value - limit;
    while rest >= 128 {
        out.push(low(rest % 128) | 0x80);
        rest /= 128;
    }
    out.push(low(rest));
}

/// A header section of literal fields.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let written = |(name, value): &(&str, &str)| literal(name.as_bytes(), value.as_bytes());
    fields.iter().flat_map(written).collect()
}

/// What every plain request begins with.
pub const REQUEST: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/v"),
    (":authority", "a"),
];

/// A sound request with further fields behind.
pub fn request_block(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = REQUEST.to_vec();
    fields[0].1 = method;
    fields.extend_from_slice(more);
    block(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut bytes = rst_stream(3, code::CANCEL);
        bytes.extend(ping([7; 8]));
        bytes.push(0);
        let first = Frame::take(&mut bytes).unwrap();
        assert_eq!(
            (first.kind, first.stream, first.code()),
            (kind::RST_STREAM, 3, Some(8))
        );
        assert_eq!(Frame::take(&mut bytes).unwrap().payload, [7; 8]);
        assert_eq!(Frame::take(&mut bytes), None);
    }

    #[test]
    fn integers_are_those_of_rfc_7541_appendix_c1() {
        let encoded = |bits, value| {
            let mut out = Vec::new();
            integer(&mut out, 0, bits, value);
            out
        };
        assert_eq!(encoded(5, 10), [10]);
        assert_eq!(encoded(5, 1337), [31, 154, 10]);
        assert_eq!(encoded(8, 42), [42]);
    }

    #[test]
    fn finds_the_status() {
        let frame = |block: &[u8]| Frame {
            kind: kind::HEADERS,
            flags: 0,
            stream: 1,
            payload: block.to_vec(),
        };
        assert_eq!(frame(&[0x88]).indexed_status(), Some(200));
        assert_eq!(frame(&[0x20, 0x8c]).indexed_status(), Some(400));
        assert_eq!(frame(&[0x48, 0x82]).indexed_status(), None);
    }
}
