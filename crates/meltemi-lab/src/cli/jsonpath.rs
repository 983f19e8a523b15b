//! `-o jsonpath=`: the part of kubectl's templates that guides use - text, paths with names, indexes and `[*]`, quoted
//! text, and `{range PATH}...{end}` (Kubernetes, "JSONPath Support"). Anything else is refused by name.

use std::str::FromStr;

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Self>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Negative from the end.
    Index(i64),
    All,
}

impl Template {
    pub(super) fn render(&self, root: &Value) -> String {
        render(&self.0, root)
    }
}

fn render(nodes: &[Node], root: &Value) -> String {
    let node = |node: &Node| match node {
        Node::Text(text) => text.clone(),
        Node::Path(steps) => {
            let found: Vec<String> = select(steps, root).into_iter().map(shown).collect();
            found.join(" ")
        }
        Node::Range(steps, body) => select(steps, root)
            .into_iter()
            .map(|item| render(body, item))
            .collect(),
    };
    nodes.iter().map(node).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn select<'a>(steps: &[Step], root: &'a Value) -> Vec<&'a Value> {
    steps.iter().fold(vec![root], |found, step| match step {
        Step::Field(name) => found
            .into_iter()
            .filter_map(|value| value.get(name))
            .collect(),
        Step::Index(index) => found
            .into_iter()
            .filter_map(|value| at(value.as_array()?, *index))
            .collect(),
        Step::All => found.into_iter().flat_map(children).collect(),
    })
}

fn at(list: &[Value], index: i64) -> Option<&Value> {
    let length = i64::try_from(list.len()).ok()?;
    let index = if index < 0 { length + index } else { index };
    list.get(usize::try_from(index).ok()?)
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let nodes = nodes(&mut rest, false)?;
        Ok(Self(nodes))
    }
}

/// Reads up to the end of the text, or up to `{end}` inside a range.
fn nodes(rest: &mut &str, inside: bool) -> Result<Vec<Node>, String> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let Some((text, tail)) = rest.split_once('{') else {
            found.push(Node::Text((*rest).to_owned()));
            *rest = "";
            break;
        };
        if !text.is_empty() {
            found.push(Node::Text(text.to_owned()));
        }
        let (expression, tail) = tail
            .split_once('}')
            .ok_or_else(|| format!("\"{{{tail}\" has no closing brace"))?;
        *rest = tail;
        match expression.trim() {
            "end" if inside => return Ok(found),
            "end" => return Err("{end} without {range}".to_owned()),
            expression => match expression.strip_prefix("range ") {
                Some(path) => {
                    let steps = steps(path.trim())?;
                    found.push(Node::Range(steps, nodes(rest, true)?));
                }
                None => found.push(expression_node(expression)?),
            },
        }
    }
    if inside {
        return Err("{range} without {end}".to_owned());
    }
    Ok(found)
}

fn expression_node(expression: &str) -> Result<Node, String> {
    let quoted = ['"', '\''].iter().find_map(|quote| {
        expression
            .strip_prefix(*quote)
            .and_then(|text| text.strip_suffix(*quote))
    });
    match quoted {
        Some(text) => Ok(Node::Text(text.replace("\\n", "\n").replace("\\t", "\t"))),
        None => Ok(Node::Path(steps(expression)?)),
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let unsupported = || format!("\"{path}\" is not understood: write .NAME, [N], [*] or ['NAME']");
    let mut rest = path.trim_start_matches(['$', '@']);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let (inner, tail) = tail.split_once(']').ok_or_else(unsupported)?;
            let name = inner
                .strip_prefix('\'')
                .and_then(|name| name.strip_suffix('\''));
            steps.push(match (inner, name) {
                ("*", _) => Step::All,
                (_, Some(name)) => Step::Field(name.to_owned()),
                (index, None) => Step::Index(index.parse().map_err(|_| unsupported())?),
            });
            rest = tail;
            continue;
        }
        rest = rest.strip_prefix('.').ok_or_else(unsupported)?;
        let (name, tail) = field(rest);
        match name.as_str() {
            "*" => steps.push(Step::All),
            // `.` alone is the object itself, `..` searches.
            "" if tail.is_empty() => {}
            "" => return Err(unsupported()),
            _ => steps.push(Step::Field(name)),
        }
        rest = tail;
    }
    Ok(steps)
}

/// A name up to the next step; a backslash keeps a dot in it, as labels need.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, text.get(index..).unwrap_or_default()),
            _ => name.push(letter),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_guides_ask_for() {
        let pod = |name: &str, ports: Value| json!({"metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}}, "ports": ports});
        let list = json!({"items": [pod("a", json!([1, 2])), pod("b", json!([3]))]});
        for (template, expected) in [
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[*].metadata.name}", "a b"),
            ("{$.items[1]['metadata'].name}!", "b!"),
            (
                "{range .items[*]}{.metadata.name}{\"\\t\"}{@.ports}{\"\\n\"}{end}",
                "a\t[1,2]\nb\t[3]\n",
            ),
            (r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "a"),
            ("{.items[0].nothing}", ""),
        ] {
            let parsed: Template = template.parse().unwrap();
            assert_eq!(parsed.render(&list), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for template in ["{.a", "{end}", "{range .a}", "{..a}", "{.a[?(@.b)]}"] {
            assert!(template.parse::<Template>().is_err(), "{template}");
        }
    }
}
