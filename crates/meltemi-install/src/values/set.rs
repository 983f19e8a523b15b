//! `--set`, as Helm reads it (helm.sh, "The format and limitations of --set").

use serde_json::{Map, Value};

use super::InstallError;

/// More places in a list than anybody means.
const INDEX_LIMIT: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

/// Writes every `path=value` of the text into `values`.
pub(super) fn apply(values: &mut Value, text: &str) -> Result<(), InstallError> {
    let wrong = |message: String| InstallError::Set {
        text: text.to_owned(),
        message,
    };
    for pair in split(text, ',') {
        let mut sides = split(&pair, '=').into_iter();
        let path = sides.next().unwrap_or_default();
        let rest: Vec<String> = sides.collect();
        if rest.is_empty() {
            let message = format!("\"{pair}\" is not path=value, such as pilot.replicaCount=2");
            return Err(wrong(message));
        }
        let steps = steps(&path).map_err(wrong)?;
        let place = place(values, &steps).map_err(wrong)?;
        *place = value(&rest.join("="));
    }
    Ok(())
}

/// Splits at a character that stands neither after a backslash nor in braces. The backslashes stay.
fn split(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut escaped) = (0_usize, false);
    for c in text.chars() {
        match c {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == at && depth == 0 && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in split(path.trim(), '.') {
        let (name, indexes) = match part.split_once('[') {
            Some((name, indexes)) => (name, indexes),
            None => (part.as_str(), ""),
        };
        if name.is_empty() {
            return Err(format!("\"{path}\" has a step without a name"));
        }
        steps.push(Step::Field(unescaped(name)));
        for index in indexes.split('[').filter(|index| !index.is_empty()) {
            let number = index.strip_suffix(']').and_then(|index| index.parse().ok());
            match number {
                Some(number) if number < INDEX_LIMIT => steps.push(Step::Index(number)),
                _ => return Err(format!("\"[{index}\" in \"{path}\" is no place in a list")),
            }
        }
    }
    // istioctl writes values.global.hub for what charts call global.hub.
    if steps.len() > 1 && steps[0] == Step::Field("values".to_owned()) {
        steps.remove(0);
    }
    Ok(steps)
}

fn place<'a>(values: &'a mut Value, steps: &[Step]) -> Result<&'a mut Value, String> {
    steps.iter().try_fold(values, |value, step| match step {
        Step::Field(name) => {
            if value.is_null() {
                *value = Value::Object(Map::new());
            }
            let fields = value.as_object_mut();
            let fields =
                fields.ok_or_else(|| format!("\"{name}\" stands below a value without fields"))?;
            Ok(fields.entry(name.as_str()).or_insert(Value::Null))
        }
        Step::Index(index) => {
            if value.is_null() {
                *value = Value::Array(Vec::new());
            }
            let items = value.as_array_mut();
            let items = items.ok_or_else(|| format!("[{index}] stands behind what is no list"))?;
            if items.len() <= *index {
                items.resize(index + 1, Value::Null);
            }
            Ok(&mut items[*index])
        }
    })
}

/// `true`, `false`, `null` and whole numbers are what they look like, `{a,b}` is a list, everything else a text.
fn value(text: &str) -> Value {
    if let Some(items) = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
    {
        let items = split(items, ',').into_iter();
        return items
            .filter(|item| !item.is_empty())
            .map(|item| value(&item))
            .collect();
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // A leading zero is a part of an identifier, as in Helm.
        _ if text.len() > 1 && text.starts_with('0') => Value::String(text.to_owned()),
        _ => text
            .parse::<i64>()
            .map_or_else(|_| Value::String(unescaped(text)), Value::from),
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let c = if c == '\\' {
            characters.next().unwrap_or(c)
        } else {
            c
        };
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_and_values_as_helm_reads_them() {
        let check = |text: &str, expected: Value| {
            let mut values = json!({});
            apply(&mut values, text).unwrap();
            assert_eq!(values, expected, "{text}");
        };
        check("a.b=c", json!({"a": {"b": "c"}}));
        check("values.a=1,b=true", json!({"a": 1, "b": true}));
        check("a=", json!({"a": ""}));
        check("a=007", json!({"a": "007"}));
        check("a={x,2}", json!({"a": ["x", 2]}));
        check("a[1].b=x=y", json!({"a": [null, {"b": "x=y"}]}));
        check(
            r"n.kubernetes\.io/os=linux\,x",
            json!({"n": {"kubernetes.io/os": "linux,x"}}),
        );
    }

    #[test]
    fn what_is_no_path_or_value_is_said() {
        let refused = |text: &str| apply(&mut json!({}), text).unwrap_err().to_string();
        assert!(refused("a.b").contains("is not path=value"));
        assert!(refused("a..b=1").contains("without a name"));
        assert!(refused("a[9999]=1").contains("no place in a list"));
        assert!(refused("a=1,a.b=2").contains("below a value without fields"));
    }
}
