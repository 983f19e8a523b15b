//! `-o jsonpath=`: kubectl's templates - text, paths with names, indexes, slices, unions, `[*]`, `..` and filters, quoted
//! text, and `{range PATH}...{end}` (Kubernetes, "JSONPath Support"). Anything else is refused by name.
//!
//! The dialect is kubectl's, not RFC 9535: `$` and `@` are where the path begins, `['a.b']` is `.a.b`, and what is not there
//! is nothing.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::Value;

/// How deep objects are searched for `..`.
const DEPTH_LIMIT: usize = 64;

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
    /// `[from:to:step]`; negative ends count from the end.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: usize,
    },
    All,
    /// `..`: the value and every object and list in it.
    Inside,
    /// `[A,B]`
    Union(Vec<Vec<Self>>),
    /// `[?(...)]`
    Filter(Filter),
}

/// Chooses items of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    path: Vec<Step>,
    /// Without one the path must lead to something.
    test: Option<(Operator, Operand)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

impl Template {
    pub(super) fn render(&self, root: &Value) -> String {
        render(&self.0, root)
    }

    /// Reads a path that may stand without braces and first dot, as kubectl takes it beside templates.
    pub(super) fn relaxed(path: &str) -> Result<Self, String> {
        let bare = path.strip_prefix('{');
        let bare = bare.map_or(Some(path), |rest| rest.strip_suffix('}'));
        let bare = bare.ok_or_else(|| format!("\"{path}\" has no closing brace"))?;
        let dot = if bare.starts_with(['.', '[', '$', '@']) {
            ""
        } else {
            "."
        };
        let steps = steps(&format!("{dot}{bare}"))?;
        if steps.is_empty() {
            return Err("an empty path; write one such as .metadata.name".to_owned());
        }
        Ok(Self(vec![Node::Path(steps)]))
    }

    /// Each of what the template's paths lead to, as text.
    pub(super) fn values(&self, root: &Value) -> Vec<String> {
        let paths = self.0.iter().filter_map(|node| match node {
            Node::Path(steps) => Some(steps),
            Node::Text(_) | Node::Range(..) => None,
        });
        paths
            .flat_map(|steps| select(steps, root))
            .map(shown)
            .collect()
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
    steps.iter().fold(vec![root], |found, step| {
        found
            .into_iter()
            .flat_map(|value| step.select(value))
            .collect()
    })
}

impl Step {
    fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => at(items(), *index).into_iter().collect(),
            Self::Slice { from, to, step } => part(items(), *from, *to, *step),
            Self::All => children(value),
            Self::Inside => {
                let mut found = Vec::new();
                inside(value, DEPTH_LIMIT, &mut found);
                found
            }
            Self::Union(paths) => paths.iter().flat_map(|path| select(path, value)).collect(),
            Self::Filter(filter) => items().iter().filter(|item| filter.takes(item)).collect(),
        }
    }
}

impl Filter {
    fn takes(&self, item: &Value) -> bool {
        let left = select(&self.path, item);
        let Some((operator, operand)) = &self.test else {
            return !left.is_empty();
        };
        let right = match operand {
            Operand::Literal(value) => vec![value],
            Operand::Path(steps) => select(steps, item),
        };
        match (&left[..], &right[..]) {
            ([left], [right]) => operator.holds(left, right),
            // What is not there compares with nothing.
            _ => false,
        }
    }
}

impl Operator {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => left
                .as_f64()
                .zip(right.as_f64())
                .and_then(|(left, right)| left.partial_cmp(&right)),
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            _ => (left == right).then_some(Ordering::Equal),
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

/// The value and all that it holds, as far as that holds something in turn.
fn inside<'a>(value: &'a Value, depth: usize, found: &mut Vec<&'a Value>) {
    let within = children(value);
    if within.is_empty() || depth == 0 {
        return;
    }
    found.push(value);
    for child in within {
        inside(child, depth - 1, found);
    }
}

fn part(list: &[Value], from: Option<i64>, to: Option<i64>, step: usize) -> Vec<&Value> {
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let place = |given: Option<i64>, default: i64| {
        let place = given.unwrap_or(default);
        let place = if place < 0 { place + length } else { place };
        usize::try_from(place.clamp(0, length)).unwrap_or_default()
    };
    let range = place(from, 0)..place(to, length);
    let items = list.get(range).unwrap_or_default();
    items.iter().step_by(step).collect()
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
        let (expression, tail) =
            until(tail, '}').ok_or_else(|| format!("\"{{{tail}\" has no closing brace"))?;
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
    match unquoted(expression) {
        Some(text) => Ok(Node::Text(text.replace("\\n", "\n").replace("\\t", "\t"))),
        None => Ok(Node::Path(steps(expression)?)),
    }
}

/// Splits at the first `end` outside quotes and inner brackets.
fn until(text: &str, end: char) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match (quote, letter) {
            (_, '\\') => drop(letters.next()),
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, letter) if letter == end && depth == 0 => {
                let tail = text.get(index + letter.len_utf8()..);
                return Some((text.get(..index)?, tail.unwrap_or_default()));
            }
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let unsupported = || {
        format!(
            "\"{path}\" is not understood: write .NAME, ..NAME, [N], [N:M], [*], ['NAME'] or [?(@.NAME==\"VALUE\")]"
        )
    };
    let mut rest = path.trim_start_matches(['$', '@']);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let (inner, tail) = until(tail, ']').ok_or_else(unsupported)?;
            steps.extend(bracket(inner.trim()).ok_or_else(unsupported)?);
            rest = tail;
            continue;
        }
        rest = rest.strip_prefix('.').ok_or_else(unsupported)?;
        if let Some(tail) = rest.strip_prefix('.') {
            steps.push(Step::Inside);
            rest = tail;
            if rest.starts_with('[') {
                continue;
            }
            if rest.is_empty() {
                return Err(unsupported());
            }
        }
        let (name, tail) = field(rest);
        match name.as_str() {
            "*" => steps.push(Step::All),
            // `.` alone is the object itself.
            "" if tail.is_empty() => {}
            "" => return Err(unsupported()),
            _ => steps.push(Step::Field(name)),
        }
        rest = tail;
    }
    Ok(steps)
}

/// What stands in brackets; `None` if it is not understood.
fn bracket(inner: &str) -> Option<Vec<Step>> {
    if let Some(filter) = inner.strip_prefix('?') {
        let condition = filter.trim().strip_prefix('(')?.strip_suffix(')')?;
        return Some(vec![Step::Filter(condition_of(condition.trim())?)]);
    }
    if let Some((first, mut rest)) = until(inner, ',') {
        let mut paths = vec![bracket(first.trim())?];
        while let Some((next, tail)) = until(rest, ',') {
            paths.push(bracket(next.trim())?);
            rest = tail;
        }
        paths.push(bracket(rest.trim())?);
        return Some(vec![Step::Union(paths)]);
    }
    if inner == "*" {
        return Some(vec![Step::All]);
    }
    if let Some(name) = unquoted(inner) {
        return steps(&format!(".{name}")).ok();
    }
    if inner.contains(':') {
        return slice(inner).map(|slice| vec![slice]);
    }
    Some(vec![Step::Index(inner.parse().ok()?)])
}

fn slice(text: &str) -> Option<Step> {
    let mut parts = text.split(':').map(str::trim);
    let mut number = || match parts.next() {
        None | Some("") => Some(None),
        Some(text) => text.parse().ok().map(Some),
    };
    let (from, to, step) = (number()?, number()?, number()?);
    let step = usize::try_from(step.unwrap_or(1)).ok()?;
    (step > 0 && parts.next().is_none()).then_some(Step::Slice { from, to, step })
}

/// `PATH` or `PATH OPERATOR VALUE`.
fn condition_of(text: &str) -> Option<Filter> {
    let operators = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let Some(at) = text.find(['=', '!', '<', '>']) else {
        return Some(Filter {
            path: steps(text).ok()?,
            test: None,
        });
    };
    let (path, rest) = text.split_at_checked(at)?;
    let (operator, value) = operators
        .iter()
        .find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?)))?;
    Some(Filter {
        path: steps(path.trim()).ok()?,
        test: Some((operator, operand(value.trim())?)),
    })
}

fn operand(text: &str) -> Option<Operand> {
    if text.starts_with(['@', '$', '.']) {
        return steps(text).ok().map(Operand::Path);
    }
    let literal = match unquoted(text) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(text).ok()?,
    };
    Some(Operand::Literal(literal))
}

/// The text between quotes of either kind.
fn unquoted(text: &str) -> Option<&str> {
    ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
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
    fn searches_filters_slices_and_unions() {
        let port = |name: &str, port: u16| json!({"name": name, "port": port, "nodePort": port});
        let ports = json!([port("http", 80), port("https}", 443), {"port": 15021}]);
        let service =
            json!({"metadata": {"name": "s", "uid": "u"}, "spec": {"ports": ports, "sum": 80}});
        for (template, expected) in [
            (r#"{.spec.ports[?(@.name=="http")].port}"#, "80"),
            ("{.spec.ports[?(@.name=='https}')].port}", "443"),
            ("{.spec.ports[?(@.name!=\"http\")].port}", "443"),
            ("{.spec.ports[?(@.name)].port}", "80 443"),
            ("{.spec.ports[?(@.port > 100)].port}", "443 15021"),
            ("{.spec.ports[?(@.port==@.nodePort)].name}", "http https}"),
            ("{.spec.ports[?(@.name==\"none\")].port}", ""),
            ("{..name}", "s http https}"),
            ("{.spec..port}", "80 443 15021"),
            ("{..ports[0].port}", "80"),
            ("{.spec.ports[0:2].port}", "80 443"),
            ("{.spec.ports[1:].port}", "443 15021"),
            ("{.spec.ports[-1:].port}", "15021"),
            ("{.spec.ports[::2].port}", "80 15021"),
            ("{.spec.ports[0,2].port}", "80 15021"),
            ("{.metadata['name', 'uid']}", "s u"),
            ("{['metadata.name']}", "s"),
            (
                "{range .spec.ports[?(@.name)]}{.name}={.port};{end}",
                "http=80;https}=443;",
            ),
        ] {
            let parsed: Template = template.parse().unwrap();
            assert_eq!(parsed.render(&service), expected, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for template in [
            "{.a",
            "{end}",
            "{range .a}",
            "{..}",
            "{.a[?(@.b==c)]}",
            "{.a[1:2:0]}",
            "{.a[x]}",
        ] {
            assert!(template.parse::<Template>().is_err(), "{template}");
        }
    }
}
