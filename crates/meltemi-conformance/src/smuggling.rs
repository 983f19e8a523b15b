//! Requests and responses that two servers could read differently: what of them comes out on the other side.
//!
//! The rule of every case: never two requests out of one, and of a refused request not a byte. What is let through must come
//! out so that there is one way to read it ([`crate::rig::upstream::Seen::oddity`]).

mod http1;
mod http2;
mod judge;
mod responses;
mod run;

use crate::rig::upstream::Answer;

pub use run::{cases, run};

/// What is required of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of it may reach the other side.
    Refuse,
    /// The head is sound and may have been passed on before the rest came: the message must never become complete.
    RefuseBody,
    Pass,
    /// The RFC leaves the choice; what is passed on must be sound.
    Either,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::RefuseBody => "refuse body",
            Self::Pass => "pass",
            Self::Either => "either",
        }
    }
}

/// Whether the quick core or everything is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// HTTP/1 to HTTP/1 alone, and HTTP/2 to HTTP/1.
    Core,
    Full,
}

/// What must hold of that which is passed on.
#[derive(Clone, Debug)]
struct Expectation {
    name: &'static str,
    rule: &'static str,
    verdict: Verdict,
    /// Requests to arrive when it is passed on.
    requests: usize,
    /// Text that must arrive when it is passed on.
    needs: Option<&'static str>,
    /// Text that must not arrive.
    never: Option<&'static str>,
    answer: Answer,
}

impl Expectation {
    fn new(name: &'static str, rule: &'static str, verdict: Verdict) -> Self {
        Self {
            name,
            rule,
            verdict,
            requests: 1,
            needs: None,
            never: None,
            answer: Answer::Whole,
        }
    }
}

/// A request as HTTP/1 bytes.
#[derive(Clone, Debug)]
struct Vector {
    expectation: Expectation,
    bytes: Vec<u8>,
}

impl Vector {
    fn new(name: &'static str, rule: &'static str, verdict: Verdict, bytes: Vec<u8>) -> Self {
        Self {
            expectation: Expectation::new(name, rule, verdict),
            bytes,
        }
    }

    fn requests(mut self, requests: usize) -> Self {
        self.expectation.requests = requests;
        self
    }

    fn needs(mut self, text: &'static str) -> Self {
        self.expectation.needs = Some(text);
        self
    }

    fn never(mut self, text: &'static str) -> Self {
        self.expectation.never = Some(text);
        self
    }

    fn answered(mut self, answer: Answer) -> Self {
        self.expectation.answer = answer;
        self
    }
}

type Field = (&'static str, &'static str);

/// A request as HTTP/2 fields.
#[derive(Clone, Debug)]
struct Fields {
    expectation: Expectation,
    fields: Vec<Field>,
    content: Option<&'static str>,
    trailer: Option<Vec<Field>>,
    /// The last frame does not end the stream.
    is_unended: bool,
}

impl Fields {
    fn new(name: &'static str, rule: &'static str, verdict: Verdict, fields: &[Field]) -> Self {
        Self {
            expectation: Expectation::new(name, rule, verdict),
            fields: fields.to_vec(),
            content: None,
            trailer: None,
            is_unended: false,
        }
    }

    fn content(mut self, content: &'static str) -> Self {
        self.content = Some(content);
        self
    }

    fn trailer(mut self, fields: &[Field]) -> Self {
        self.trailer = Some(fields.to_vec());
        self
    }

    fn unended(mut self) -> Self {
        self.is_unended = true;
        self
    }

    fn needs(mut self, text: &'static str) -> Self {
        self.expectation.needs = Some(text);
        self
    }

    fn never(mut self, text: &'static str) -> Self {
        self.expectation.never = Some(text);
        self
    }

    /// The frames on stream 1.
    fn frames(&self) -> Vec<u8> {
        use crate::http2::frame::{block, data, flag, headers};
        let end = |is_last: bool| {
            if is_last && !self.is_unended {
                flag::END_STREAM
            } else {
                0
            }
        };
        let is_head_last = self.content.is_none() && self.trailer.is_none();
        let mut out = headers(1, end(is_head_last), &block(&self.fields));
        if let Some(content) = self.content {
            out.extend(data(1, end(self.trailer.is_none()), content.as_bytes()));
        }
        if let Some(trailer) = &self.trailer {
            out.extend(headers(1, end(true), &block(trailer)));
        }
        out
    }
}
