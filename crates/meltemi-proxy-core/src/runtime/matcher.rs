use std::sync::Arc;

use http::HeaderName;
use regex::bytes::Regex;

/// A string test (Envoy `type.matcher.v3.StringMatcher`); on bytes, because header values need not be UTF-8.
#[derive(Debug, Clone)]
pub struct StringMatcher {
    pub pattern: StringPattern,
    /// ASCII case is ignored. Envoy forbids it for regular expressions.
    pub ignore_case: bool,
}

#[derive(Debug, Clone)]
pub enum StringPattern {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    Contains(Arc<str>),
    /// Compiled to match the whole input, as RE2's `FullMatch` does.
    Regex(Regex),
}

impl StringMatcher {
    pub fn exact(text: &str) -> Self {
        Self {
            pattern: StringPattern::Exact(text.into()),
            ignore_case: false,
        }
    }

    pub fn prefix(text: &str) -> Self {
        Self {
            pattern: StringPattern::Prefix(text.into()),
            ignore_case: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn suffix(text: &str) -> Self {
        Self {
            pattern: StringPattern::Suffix(text.into()),
            ignore_case: false,
        }
    }

    /// Whether what it looks for has this character; of an expression nobody knows.
    pub(crate) fn names(&self, character: char) -> bool {
        match &self.pattern {
            StringPattern::Exact(text)
            | StringPattern::Prefix(text)
            | StringPattern::Suffix(text)
            | StringPattern::Contains(text) => text.contains(character),
            StringPattern::Regex(_) => false,
        }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        let eq = |a: &[u8], b: &str| {
            if self.ignore_case {
                a.eq_ignore_ascii_case(b.as_bytes())
            } else {
                a == b.as_bytes()
            }
        };
        match &self.pattern {
            StringPattern::Exact(text) => eq(value, text),
            StringPattern::Prefix(text) => {
                value.get(..text.len()).is_some_and(|head| eq(head, text))
            }
            StringPattern::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|tail| eq(tail, text)),
            StringPattern::Contains(text) if text.is_empty() => true,
            StringPattern::Contains(text) => value.windows(text.len()).any(|part| eq(part, text)),
            StringPattern::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Where a header matcher or hash policy looks. Pseudo-headers are spelled with a colon in configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderSource {
    Method,
    /// Path with query.
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

/// Envoy `config.route.v3.HeaderMatcher`.
///
/// Several lines of one header are matched one by one and any match counts; Envoy joins them with commas first.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    pub source: HeaderSource,
    pub test: HeaderMatch,
    pub invert: bool,
    /// An absent header is matched as an empty value, instead of never matching.
    pub treat_missing_as_empty: bool,
}

#[derive(Debug, Clone)]
pub enum HeaderMatch {
    /// `true`: the header is there; `false`: it is not.
    Present(bool),
    Value(StringMatcher),
    /// A decimal integer in `[start, end)`.
    Range {
        start: i64,
        end: i64,
    },
}

/// Envoy `config.route.v3.QueryParameterMatcher`; the first occurrence of the parameter decides.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    pub name: Arc<str>,
    pub test: QueryMatch,
}

#[derive(Debug, Clone)]
pub enum QueryMatch {
    Present(bool),
    Value(StringMatcher),
}

/// A share of requests, `numerator / denominator` (Envoy `type.v3.FractionalPercent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: u32,
}

impl Fraction {
    pub const ALWAYS: Self = Self {
        numerator: 100,
        denominator: 100,
    };

    /// Whether a uniformly random number falls into the share.
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// Envoy `type.matcher.v3.RegexMatchAndSubstitute`; every match is replaced.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    pub pattern: Regex,
    /// In the syntax of the `regex` crate: `${1}` for Envoy's `\1`.
    pub substitution: Arc<[u8]>,
}

impl RegexRewrite {
    pub fn apply(&self, input: &[u8]) -> Vec<u8> {
        self.pattern
            .replace_all(input, &*self.substitution)
            .into_owned()
    }
}
