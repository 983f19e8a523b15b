//! `-l`: label selectors as kubectl writes them (Kubernetes, "Labels and Selectors").

use std::str::FromStr;

use serde_json::Value;

/// Requirements that all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// `None`: the label's presence alone decides.
    values: Option<Vec<String>>,
    negated: bool,
}

impl Selector {
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0
            .iter()
            .all(|wanted| wanted.holds(labels[&wanted.key].as_str()))
    }
}

impl Requirement {
    /// A negated requirement also holds where the label is absent.
    fn holds(&self, label: Option<&str>) -> bool {
        let positive = match (&self.values, label) {
            (None, label) => label.is_some(),
            (Some(values), Some(label)) => values.iter().any(|value| value == label),
            (Some(_), None) => false,
        };
        positive != self.negated
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        let mut start = 0;
        let mut depth = 0_u32;
        for (index, letter) in text.char_indices().chain([(text.len(), ',')]) {
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    let part = text.get(start..index).unwrap_or_default().trim();
                    if !part.is_empty() {
                        requirements.push(requirement(part)?);
                    }
                    start = index + 1;
                }
                _ => {}
            }
        }
        Ok(Self(requirements))
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let one = |key: &str, value: &str, negated| Requirement {
        key: key.trim().to_owned(),
        values: Some(vec![value.trim().to_owned()]),
        negated,
    };
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(one(key, value, true));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(one(key, value, false));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').map(|values| {
            values
                .split(',')
                .map(|value| value.trim().to_owned())
                .collect()
        });
        let negated = match head.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "in"] => Some(false),
            [_, "notin"] => Some(true),
            _ => None,
        };
        if let (Some(values), Some(negated)) = (values, negated) {
            let key = head
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
            return Ok(Requirement {
                key,
                values: Some(values),
                negated,
            });
        }
        return Err(format!(
            "\"{text}\" is neither `KEY in (A,B)` nor `KEY notin (A,B)`"
        ));
    }
    if text.contains(char::is_whitespace) {
        return Err(format!("\"{text}\" is no label requirement"));
    }
    Ok(Requirement {
        key: text.trim_start_matches('!').to_owned(),
        values: None,
        negated: text.starts_with('!'),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, expected: bool) {
        let object = json!({"metadata": {"labels": {"app": "reviews", "version": "v2"}}});
        let selector: Selector = selector.parse().unwrap();
        assert_eq!(selector.matches(&object), expected, "{selector:?}");
    }

    #[test]
    fn every_form_of_kubectl() {
        for (selector, expected) in [
            ("", true),
            ("app=reviews", true),
            ("app==reviews,version=v2", true),
            ("app=reviews,version=v1", false),
            ("version!=v1", true),
            ("absent!=v1", true),
            ("version in (v1, v2),app", true),
            ("version notin (v1,v2)", false),
            ("absent", false),
            ("!absent", true),
        ] {
            check(selector, expected);
        }
        assert!("version on (v1)".parse::<Selector>().is_err());
        assert!("two words".parse::<Selector>().is_err());
    }
}
