use std::sync::Arc;

use serde_json::{Map, Value};

use super::StringMatcher;

/// Envoy `type.matcher.v3.MetadataMatcher`, over what the JWT filter knows of a request.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// Names of objects within objects; the first is the key of a provider's payload.
    pub path: Vec<Arc<str>>,
    pub value: ValueMatcher,
    pub invert: bool,
}

/// Envoy `ValueMatcher`. What is absent matches none of them.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    Null,
    Text(StringMatcher),
    Bool(bool),
    Number(f64),
    /// `[start, end)`.
    NumberRange {
        start: f64,
        end: f64,
    },
    Present,
    /// Any item of a list.
    OneOf(Box<Self>),
    AnyOf(Vec<Self>),
}

impl MetadataMatcher {
    /// `None`: nothing was verified.
    pub fn matches(&self, metadata: Option<&Map<String, Value>>) -> bool {
        let found = self.find(metadata);
        found.is_some_and(|value| self.value.matches(value)) != self.invert
    }

    fn find<'m>(&self, metadata: Option<&'m Map<String, Value>>) -> Option<&'m Value> {
        let (first, rest) = self.path.split_first()?;
        let start = metadata?.get(&**first)?;
        rest.iter()
            .try_fold(start, |value, name| value.get(&**name))
    }
}

impl ValueMatcher {
    fn matches(&self, value: &Value) -> bool {
        let number = || value.as_f64();
        match self {
            Self::Null => value.is_null(),
            Self::Present => true,
            Self::Bool(wanted) => value.as_bool() == Some(*wanted),
            Self::Number(wanted) => number() == Some(*wanted),
            Self::NumberRange { start, end } => {
                number().is_some_and(|number| *start <= number && number < *end)
            }
            Self::Text(matcher) => value
                .as_str()
                .is_some_and(|text| matcher.matches(text.as_bytes())),
            Self::OneOf(inner) => value
                .as_array()
                .is_some_and(|list| list.iter().any(|item| inner.matches(item))),
            Self::AnyOf(list) => list.iter().any(|inner| inner.matches(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_match_by_kind() {
        let metadata = json!({"payload": {
            "groups": ["a", 4, {"deep": "y"}], "sub": "x", "admin": true, "n": 3, "none": null, "map": {"a.b": {"c": "z"}}}});
        let metadata = metadata.as_object().unwrap();
        let text = |text| ValueMatcher::Text(StringMatcher::exact(text));
        let in_list = |wanted| ValueMatcher::OneOf(Box::new(text(wanted)));
        let range = |start, end| ValueMatcher::NumberRange { start, end };
        let check = |path: &[&str], value: &ValueMatcher, expected: bool| {
            let path = ["payload"].iter().chain(path);
            let mut matcher = MetadataMatcher {
                path: path.map(|key| Arc::from(*key)).collect(),
                value: value.clone(),
                invert: false,
            };
            let found = matcher.matches(Some(metadata));
            assert_eq!(found, expected, "{matcher:?}");
            assert!(!matcher.matches(None), "{matcher:?}");
            matcher.invert = true;
            let found = matcher.matches(Some(metadata));
            assert_eq!(found, !expected, "{matcher:?}");
            assert!(matcher.matches(None), "{matcher:?}");
        };
        check(&["sub"], &text("x"), true);
        check(&["sub"], &text("y"), false);
        check(&["sub", "x"], &text("x"), false);
        check(&["n"], &text("3"), false);
        check(&["n"], &ValueMatcher::Number(3.0), true);
        check(&["n"], &range(1.0, 3.0), false);
        check(&["n"], &range(3.0, 4.0), true);
        check(&["admin"], &ValueMatcher::Bool(true), true);
        check(&["admin"], &ValueMatcher::Bool(false), false);
        check(&["admin"], &text("true"), false);
        check(&["none"], &ValueMatcher::Null, true);
        check(&["none"], &ValueMatcher::Present, true);
        check(&["absent"], &ValueMatcher::Null, false);
        check(&["absent"], &ValueMatcher::Present, false);
        check(&["absent"], &text("x"), false);
        check(&["groups"], &in_list("a"), true);
        check(&["groups"], &in_list("y"), false);
        check(&["groups"], &text("a"), false);
        check(&["groups", "0"], &text("a"), false);
        check(&["map", "a.b", "c"], &text("z"), true);
        check(&["map", "a", "b"], &text("z"), false);
        check(&["map"], &text("z"), false);
        let either = ValueMatcher::AnyOf(vec![text("y"), text("x")]);
        check(&["sub"], &either, true);
        check(&["sub"], &ValueMatcher::AnyOf(Vec::new()), false);
    }
}
