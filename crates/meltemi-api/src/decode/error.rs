use std::fmt;

use meltemi_core::FieldPath;
use serde::de;

use crate::suggest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    /// The value cannot be read as what the field holds.
    Malformed,
    UnknownField,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemKind,
    pub(crate) path: FieldPath,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// A decoding error; the innermost value that saw it adds its path.
#[derive(Debug)]
pub(super) struct DecodeError {
    path: Option<FieldPath>,
    message: String,
    hint: String,
}

impl DecodeError {
    pub(super) fn at(mut self, path: &FieldPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(super) fn into_problem(self, root: &FieldPath) -> Problem {
        Problem {
            kind: ProblemKind::Malformed,
            path: self.path.unwrap_or_else(|| root.clone()),
            message: self.message,
            hint: self.hint,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: None,
            message: message.to_string(),
            hint: String::new(),
        }
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let expected = in_words(&expected);
        let found = type_name(&unexpected);
        Self::custom(format!("expected {expected}, found {found}")).hint(how_to_write(expected))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match unexpected {
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => {
                Self::custom(format!(
                    "the number is out of range for {}",
                    in_words(&expected.to_string())
                ))
            }
            _ => Self::custom(format!("expected {}", in_words(&expected.to_string()))),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("unknown value \"{variant}\"")).hint(suggest::hint(variant, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("{field} is required")).hint(format!("add {field}: to it"))
    }
}

/// Rust's names of types in the words of those who write YAML.
fn in_words(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" | "u16" | "u32" | "u64" => "a whole number that is not negative",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a mapping",
        _ if expected.starts_with("struct ") => "a mapping",
        _ => expected,
    }
}

/// The remedy for a value of another type.
fn how_to_write(expected: &str) -> &'static str {
    match expected {
        "a list" => "begin each entry with \"- \", or write [a, b]",
        "a mapping" => "write its fields below it, indented, or {a: b}",
        "a boolean" => "write true or false, without quotation marks",
        "a string" => "write one text",
        text if text.contains("number") => "write digits, without quotation marks",
        _ => "",
    }
}

/// The found value's type only: values may be secret, and the quoted line shows them where they are not.
fn type_name(unexpected: &de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "a whole number",
        de::Unexpected::Float(_) => "a number",
        de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a string",
        de::Unexpected::Unit | de::Unexpected::Option => "nothing",
        de::Unexpected::Seq => "a list",
        de::Unexpected::Map => "a mapping",
        _ => "something else",
    }
}
