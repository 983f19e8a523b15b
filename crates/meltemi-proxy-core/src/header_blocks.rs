//! Looks through HTTP/2 header blocks for what the HTTP library passes over in silence (RFC 9113 sections 8.1 and 8.3.1): a
//! fragment in `:path`, which it cuts off, and pseudo-header fields in trailers, which it drops. Two recipients that take
//! different things for one request are how requests are smuggled.
//!
//! ```text
//! frames -> header block -> HPACK representations -> :path with '#'        -> '>', which the library refuses
//!                                                 -> pseudo-header field
//!                                                    in trailers           -> trailers that do not end their stream
//! ```
//!
//! What is found is spoilt on its way, so that the library resets the stream by itself, and no other: no byte is added or
//! left out, and both ends keep the same table of header fields. Of that table only sizes and kinds of names are kept
//! here. Texts are decoded only where their length or their content matters; nothing is allocated but that table.

use std::collections::VecDeque;

/// The connection preface of a client (RFC 9113 section 3.4).
const PREFACE_BYTES: u32 = 24;
/// SETTINGS_HEADER_TABLE_SIZE as it is while we do not set it.
const TABLE_LIMIT_BYTES: u32 = 4096;
/// RFC 7541 section 4.1.
const ENTRY_OVERHEAD_BYTES: u32 = 32;
/// The first bit of a stream's number is reserved.
const STREAM_MASK: u32 = 0x7fff_ffff;
/// Of a priority: the stream that it depends on, and a weight (RFC 7540 section 6.2).
const PRIORITY_BYTES: u32 = 5;
const DEPENDENCY_BYTES: u32 = 4;

mod kind {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// What a client sends on one connection, as far as header blocks go.
#[derive(Debug)]
pub struct HeaderBlocks {
    header: [u8; 9],
    header_len: usize,
    /// Bytes until the next frame begins.
    payload: u32,
    frames: u64,
    /// The frame being read, if it is part of a header block.
    part: Option<Part>,
    /// The highest stream opened: a header block on one that is not higher is that of trailers.
    last_stream: u32,
    is_trailers: bool,
    /// Where the flags stand of the HEADERS frame that began the block, if it began in the bytes being read.
    flags_at: Option<usize>,
    fields: Fields,
}

/// A part of a header block.
#[derive(Debug, Clone, Copy)]
struct Part {
    len: u32,
    /// Of `len` read so far.
    read: u32,
    /// Bytes in front of the block.
    front: u32,
    is_padded: bool,
    pad: u32,
    ends_block: bool,
    /// The frame's stream, and the one that its priority depends on, as far as it was read.
    depends: Option<(u32, u32)>,
}

/// Where a connection has to end, after how many of the bytes just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A frame could still be sent.
    BetweenFrames {
        passed: usize,
    },
    InFrame {
        passed: usize,
    },
}

impl Default for HeaderBlocks {
    fn default() -> Self {
        Self {
            header: [0; 9],
            header_len: 0,
            payload: PREFACE_BYTES,
            frames: 0,
            part: None,
            last_stream: 0,
            is_trailers: false,
            flags_at: None,
            fields: Fields::default(),
        }
    }
}

impl HeaderBlocks {
    /// Reads on, and spoils what must be refused. `Some` is where the connection has to end: what was found could not be
    /// spoilt any more.
    pub fn read(&mut self, bytes: &mut [u8]) -> Option<End> {
        self.flags_at = None;
        let mut at = 0;
        loop {
            let taken = (self.payload as usize).min(bytes.len() - at);
            if let Some(part) = &mut self.part {
                part.read(&mut bytes[at..at + taken], &mut self.fields);
            }
            at += taken;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "no more than the payload, which is a u32"
            )]
            let taken = taken as u32;
            self.payload -= taken;
            if self.payload > 0 {
                return None;
            }
            if let Some(part) = self.part.take() {
                if part.depends_on_itself() {
                    return Some(End::BetweenFrames { passed: at });
                }
                if part.ends_block && !self.end_block(bytes) {
                    // Without its last byte it is no frame, and the library takes nothing of it.
                    return Some(End::InFrame {
                        passed: at.saturating_sub(1),
                    });
                }
            }
            let taken = (9 - self.header_len).min(bytes.len() - at);
            self.header[self.header_len..self.header_len + taken]
                .copy_from_slice(&bytes[at..at + taken]);
            self.header_len += taken;
            at += taken;
            if self.header_len < 9 {
                return None;
            }
            self.header_len = 0;
            if !self.frame(at) {
                // What came of the header before has passed.
                return Some(match at.checked_sub(9) {
                    Some(passed) => End::BetweenFrames { passed },
                    None => End::InFrame { passed: 0 },
                });
            }
        }
    }

    /// A frame's header ends at `at`. False if it may not be there.
    fn frame(&mut self, at: usize) -> bool {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & STREAM_MASK;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        // RFC 9113 section 3.4: the preface ends with a SETTINGS frame.
        if self.frames == 0 && kind != kind::SETTINGS {
            return false;
        }
        self.frames += 1;
        let is_headers = kind == kind::HEADERS;
        if is_headers {
            self.is_trailers = stream <= self.last_stream;
            self.last_stream = self.last_stream.max(stream);
            self.flags_at = at.checked_sub(5);
            self.fields.begin_block();
        }
        let is_padded = is_headers && flags & flag::PADDED != 0;
        let has_priority = is_headers && flags & flag::PRIORITY != 0;
        self.part = (is_headers || kind == kind::CONTINUATION).then_some(Part {
            len: self.payload,
            read: 0,
            front: u32::from(is_padded) + if has_priority { PRIORITY_BYTES } else { 0 },
            is_padded,
            pad: 0,
            ends_block: flags & flag::END_HEADERS != 0,
            depends: has_priority.then_some((stream, 0)),
        });
        true
    }

    /// False if what must be refused can no longer be spoilt.
    fn end_block(&self, bytes: &mut [u8]) -> bool {
        if !(self.is_trailers && self.fields.has_pseudo) {
            return true;
        }
        let Some(at) = self.flags_at else {
            return false;
        };
        // Trailers that do not end their stream are malformed (RFC 9113 section 8.1).
        bytes[at] &= !flag::END_STREAM;
        true
    }
}

impl Part {
    /// The library resets such a stream without a look at its header block (RFC 7540 section 5.3.1): from then on it keeps
    /// another table than the peer does, and than we do.
    fn depends_on_itself(&self) -> bool {
        self.depends
            .is_some_and(|(stream, dependency)| stream == dependency & STREAM_MASK)
    }

    fn read(&mut self, bytes: &mut [u8], fields: &mut Fields) {
        if self.is_padded && self.read == 0 {
            self.pad = bytes.first().copied().map_or(0, u32::from);
        }
        let until = |position: u32| (position.saturating_sub(self.read) as usize).min(bytes.len());
        let (start, end) = (until(self.front), until(self.len.saturating_sub(self.pad)));
        if let Some((_, dependency)) = &mut self.depends {
            let first = self.front - PRIORITY_BYTES;
            for (position, byte) in (self.read..).zip(&bytes[..start]) {
                if (first..first + DEPENDENCY_BYTES).contains(&position) {
                    *dependency = *dependency << 8 | u32::from(*byte);
                }
            }
        }
        if start < end {
            fields.read(&mut bytes[start..end]);
        }
        #[expect(clippy::cast_possible_truncation, reason = "no more than the frame")]
        let count = bytes.len() as u32;
        self.read += count;
    }
}

/// What a header field is called, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    Field,
    Pseudo,
    Path,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    called: Called,
    len: u32,
}

/// Names in the static table (RFC 7541 appendix A).
const STATIC_NAME_LENS: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];
const STATIC_PSEUDO: u32 = 14;
const STATIC_PATHS: [u32; 2] = [4, 5];

/// The HPACK side of a connection (RFC 7541): where in a representation the next byte is, and the dynamic table.
#[derive(Debug)]
struct Fields {
    step: Step,
    form: Form,
    name: Name,
    has_pseudo: bool,
    /// The block is no HPACK: the library ends the connection.
    is_lost: bool,
    /// The newest first; with each the size of the entry.
    table: VecDeque<(Name, u32)>,
    table_size: u32,
    table_limit: u32,
}

/// What the next byte is of.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin,
    Number {
        of: Number,
        value: u32,
        shift: u32,
    },
    /// The length of a name or a value begins.
    Length(TextOf),
    Text(Text),
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Index,
    TableSize,
    Length(TextOf, /* Huffman */ bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextOf {
    Name,
    Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Indexed,
    Literal { is_inserted: bool },
}

#[derive(Debug, Clone, Copy)]
struct Text {
    of: TextOf,
    is_huffman: bool,
    /// Bytes to come.
    left: u32,
    /// The Huffman code that is being read.
    code: u32,
    code_len: usize,
    /// Characters decoded.
    len: u32,
    /// How many of them, from the first, are those of `:path`.
    matched: u32,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            step: Step::Begin,
            form: Form::Indexed,
            name: Name {
                called: Called::Field,
                len: 0,
            },
            has_pseudo: false,
            is_lost: false,
            table: VecDeque::new(),
            table_size: 0,
            table_limit: TABLE_LIMIT_BYTES,
        }
    }
}

impl Fields {
    fn begin_block(&mut self) {
        self.step = Step::Begin;
        self.has_pseudo = false;
    }

    fn read(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() && !self.is_lost {
            if let Step::Text(text) = self.step {
                let taken = (text.left as usize).min(bytes.len() - at);
                self.text(text, &mut bytes[at..at + taken]);
                at += taken;
            } else {
                self.byte(bytes[at]);
                at += 1;
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        match self.step {
            Step::Begin => self.begin(byte),
            Step::Length(of) => self.number(byte, 7, Number::Length(of, byte & 0x80 != 0)),
            Step::Number { of, value, shift } if shift <= 21 => {
                let value = value + (u32::from(byte & 0x7f) << shift);
                if byte & 0x80 == 0 {
                    self.numbered(of, value);
                } else {
                    let shift = shift + 7;
                    self.step = Step::Number { of, value, shift };
                }
            }
            Step::Number { .. } | Step::Text(_) => self.is_lost = true,
        }
    }

    /// RFC 7541 section 6.
    fn begin(&mut self, byte: u8) {
        let (prefix, form) = match byte {
            0x80.. => (7, Form::Indexed),
            0x40.. => (6, Form::Literal { is_inserted: true }),
            0x20.. => return self.number(byte, 5, Number::TableSize),
            _ => (4, Form::Literal { is_inserted: false }),
        };
        self.form = form;
        self.number(byte, prefix, Number::Index);
    }

    /// RFC 7541 section 5.1.
    fn number(&mut self, byte: u8, prefix: u32, of: Number) {
        let mask = (1 << prefix) - 1;
        let value = u32::from(byte) & mask;
        if value < mask {
            self.numbered(of, value);
        } else {
            self.step = Step::Number {
                of,
                value,
                shift: 0,
            };
        }
    }

    fn numbered(&mut self, of: Number, value: u32) {
        match (of, self.form) {
            (Number::TableSize, _) if value > TABLE_LIMIT_BYTES => self.is_lost = true,
            (Number::TableSize, _) => {
                self.table_limit = value;
                self.evict(0);
                self.step = Step::Begin;
            }
            (Number::Index, Form::Literal { .. }) if value == 0 => {
                self.step = Step::Length(TextOf::Name);
            }
            (Number::Index, form) => match (self.name_at(value), form) {
                (None, _) => self.is_lost = true,
                (Some(name), Form::Indexed) => {
                    self.name = name;
                    self.end_field();
                }
                (Some(name), Form::Literal { .. }) => {
                    self.name = name;
                    self.step = Step::Length(TextOf::Value);
                }
            },
            (Number::Length(of, is_huffman), _) => {
                let text = Text {
                    of,
                    is_huffman,
                    left: value,
                    code: 0,
                    code_len: 0,
                    len: 0,
                    matched: 0,
                };
                self.text(text, &mut []);
            }
        }
    }

    fn name_at(&self, index: u32) -> Option<Name> {
        let position = (index as usize).checked_sub(1)?;
        let Some(len) = STATIC_NAME_LENS.get(position) else {
            let dynamic = position - STATIC_NAME_LENS.len();
            return self.table.get(dynamic).map(|(name, _)| *name);
        };
        let called = match index {
            index if STATIC_PATHS.contains(&index) => Called::Path,
            ..=STATIC_PSEUDO => Called::Pseudo,
            _ => Called::Field,
        };
        let len = u32::from(*len);
        Some(Name { called, len })
    }

    fn text(&mut self, mut text: Text, bytes: &mut [u8]) {
        #[expect(clippy::cast_possible_truncation, reason = "no more than are left")]
        let count = bytes.len() as u32;
        text.left -= count;
        let is_path = text.of == TextOf::Value && self.name.called == Called::Path;
        let is_inserted = self.form == Form::Literal { is_inserted: true };
        if !text.is_huffman {
            text.plain(bytes, is_path);
        } else if is_path || is_inserted || text.of == TextOf::Name {
            text.huffman(bytes, is_path);
            self.is_lost |= text.code_len > LONGEST_CODE;
        }
        if text.left > 0 {
            self.step = Step::Text(text);
            return;
        }
        if text.of == TextOf::Name {
            self.name = text.name();
            self.step = Step::Length(TextOf::Value);
            return;
        }
        if is_inserted {
            self.insert(self.name.len + text.len + ENTRY_OVERHEAD_BYTES);
        }
        self.end_field();
    }

    fn end_field(&mut self) {
        self.has_pseudo |= self.name.called != Called::Field;
        self.step = Step::Begin;
    }

    /// RFC 7541 section 4.4: an entry larger than the table empties it.
    fn insert(&mut self, size: u32) {
        self.evict(size);
        if size <= self.table_limit {
            self.table.push_front((self.name, size));
            self.table_size += size;
        }
    }

    fn evict(&mut self, room: u32) {
        while self.table_size + room > self.table_limit {
            let Some((_, size)) = self.table.pop_back() else {
                return;
            };
            self.table_size -= size;
        }
    }
}

impl Text {
    fn plain(&mut self, bytes: &mut [u8], is_path: bool) {
        if self.of == TextOf::Name {
            for byte in bytes.iter() {
                self.character(Some(*byte));
            }
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "no more than are left")]
        let count = bytes.len() as u32;
        self.len += count;
        if is_path {
            for byte in bytes.iter_mut().filter(|byte| **byte == b'#') {
                *byte = b'>';
            }
        }
    }

    fn huffman(&mut self, bytes: &mut [u8], is_path: bool) {
        for byte in bytes {
            for bit in (0..8).rev() {
                self.code = self.code << 1 | u32::from(*byte >> bit & 1);
                self.code_len += 1;
                if self.code_len > LONGEST_CODE {
                    return;
                }
                if !is_whole(self.code, self.code_len) {
                    continue;
                }
                let character = known_character(self.code, self.code_len);
                if is_path && character == Some(b'#') {
                    // The codes of the two differ in the last bit.
                    *byte |= 1 << bit;
                }
                self.character(character);
                self.code = 0;
                self.code_len = 0;
            }
        }
    }

    fn character(&mut self, character: Option<u8>) {
        let next = PATH.get(self.len as usize).copied();
        self.matched += u32::from(self.matched == self.len && next.is_some() && next == character);
        self.len += 1;
    }

    fn name(&self) -> Name {
        let is_path = self.matched as usize == PATH.len() && self.len as usize == PATH.len();
        let called = match self.matched {
            _ if is_path => Called::Path,
            0 => Called::Field,
            _ => Called::Pseudo,
        };
        Name {
            called,
            len: self.len,
        }
    }
}

const PATH: &[u8] = b":path";

const LONGEST_CODE: usize = 30;
/// How many characters have a Huffman code of each length (RFC 7541 appendix B).
const CODES: [u32; LONGEST_CODE + 1] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];
/// The first code of each length: the code is canonical.
const FIRST_CODES: [u32; LONGEST_CODE + 1] = {
    let mut first = [0; LONGEST_CODE + 1];
    let mut len = 1;
    while len <= LONGEST_CODE {
        first[len] = (first[len - 1] + CODES[len - 1]) << 1;
        len += 1;
    }
    first
};

fn is_whole(code: u32, len: usize) -> bool {
    code.wrapping_sub(FIRST_CODES[len]) < CODES[len]
}

/// The characters that are looked for.
fn known_character(code: u32, len: usize) -> Option<u8> {
    match (len, code) {
        (7, 0x5c) => Some(b':'),
        (6, 0x2b) => Some(b'p'),
        (5, 0x03) => Some(b'a'),
        (5, 0x09) => Some(b't'),
        (6, 0x27) => Some(b'h'),
        (12, 0xffa) => Some(b'#'),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
