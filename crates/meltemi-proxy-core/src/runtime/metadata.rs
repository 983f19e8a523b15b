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

/// Envoy `ValueMatcher`. What is absent matches none of them but [`Self::Present`] of `false`.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    Text(StringMatcher),
    Bool(bool),
    Present(bool),
    /// Any item of a list.
    OneOf(Box<Self>),
    AnyOf(Vec<Self>),
}

impl MetadataMatcher {
    /// `None`: nothing was verified.
    pub fn matches(&self, metadata: Option<&Map<String, Value>>) -> bool {
        self.value.matches(self.find(metadata)) != self.invert
    }

    fn find<'m>(&self, metadata: Option<&'m Map<String, Value>>) -> Option<&'m Value> {
        let (first, rest) = self.path.split_first()?;
        let start = metadata?.get(&**first)?;
        rest.iter()
            .try_fold(start, |value, name| value.get(&**name))
    }
}

impl ValueMatcher {
    fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => value.is_some() == *wanted,
            (Self::AnyOf(list), value) => list.iter().any(|inner| inner.matches(value)),
            (Self::Text(matcher), Some(Value::String(text))) => matcher.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(Value::Bool(found))) => wanted == found,
            (Self::OneOf(inner), Some(Value::Array(list))) => {
                list.iter().any(|item| inner.matches(Some(item)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_match_by_kind() {
        let metadata = json!({"payload": {"groups": ["a", "b"], "sub": "x", "admin": true, "n": {"m": "deep"}}});
        let metadata = metadata.as_object().unwrap();
        let text = |text| ValueMatcher::Text(StringMatcher::exact(text));
        let either = |wanted| {
            ValueMatcher::AnyOf(vec![
                text(wanted),
                ValueMatcher::OneOf(Box::new(text(wanted))),
            ])
        };
        let check = |path: &str, value: &ValueMatcher, expected: bool| {
            let mut matcher = MetadataMatcher {
                path: path.split('.').map(Arc::from).collect(),
                value: value.clone(),
                invert: false,
            };
            assert_eq!(
                matcher.matches(Some(metadata)),
                expected,
                "{path} {value:?}"
            );
            matcher.invert = true;
            assert_eq!(
                matcher.matches(Some(metadata)),
                !expected,
                "{path} {value:?}"
            );
            assert!(matcher.matches(None) || matches!(value, ValueMatcher::Present(false)));
        };
        check("payload.groups", &either("b"), true);
        check("payload.groups", &either("c"), false);
        check("payload.sub", &either("x"), true);
        check("payload.n.m", &text("deep"), true);
        check("payload.n", &text("deep"), false);
        check("payload.admin", &ValueMatcher::Bool(true), true);
        check("payload.admin", &text("true"), false);
        check("payload.absent", &either("x"), false);
        check("payload.absent", &ValueMatcher::Present(false), true);
        check("other.sub", &text("x"), false);
    }
}
