//! A document as a tree in which every node knows its place.

use std::collections::BTreeSet;
use std::fmt;

use meltemi_core::FieldPath;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::Spanned;

/// Line and column, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: clamp(location.line()),
            column: clamp(location.column()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    /// In the order of writing. A key that is written twice is there twice: see [`Node::take_repeated`].
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step<'a> {
    Field(&'a str),
    Key(String),
    Index(usize),
}

/// A tree without places.
impl From<serde_json::Value> for Node {
    fn from(value: serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(value) => Value::Number(value),
            serde_json::Value::String(value) => Value::String(value),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(Self::from).collect())
            }
            serde_json::Value::Object(fields) => {
                let entry = |(key, value)| Entry {
                    key,
                    key_place: Place::default(),
                    node: Self::from(value),
                };
                Value::Map(fields.into_iter().map(entry).collect())
            }
        };
        Self {
            place: Place::default(),
            value,
        }
    }
}

impl Node {
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key || is_snake_case_of(&entry.key, key))
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// The place of the field that `path` names, or of its nearest ancestor that is written. A container is shown at its
    /// key, a scalar at its value.
    pub(crate) fn locate(&self, path: &FieldPath) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in steps(path.as_str()) {
            let next = match step {
                Step::Field(name) => node.entry(name),
                Step::Key(ref name) => node.entries().iter().find(|entry| entry.key == *name),
                Step::Index(index) => {
                    let Some(item) = node.items().get(index) else {
                        break;
                    };
                    (node, place) = (item, item.place);
                    continue;
                }
            };
            let Some(entry) = next else { break };
            node = &entry.node;
            place = match node.value {
                Value::Map(_) | Value::List(_) | Value::Null => entry.key_place,
                _ => node.place,
            };
        }
        place
    }
}

impl Node {
    /// The place of a field's name.
    pub(crate) fn locate_key(&self, path: &FieldPath) -> Place {
        let steps = steps(path.as_str());
        let Some((last, parents)) = steps.split_last() else {
            return self.place;
        };
        let parent = parents.iter().try_fold(self, |node, step| node.step(step));
        let entry = parent.and_then(|parent| match last {
            Step::Field(name) => parent.entry(name),
            Step::Key(name) => parent.entries().iter().find(|entry| entry.key == *name),
            Step::Index(_) => None,
        });
        entry.map_or_else(|| self.locate(path), |entry| entry.key_place)
    }

    /// Whether the field is written and not null.
    pub(crate) fn has(&self, path: &FieldPath) -> bool {
        steps(path.as_str())
            .iter()
            .try_fold(self, |node, step| node.step(step))
            .is_some_and(|node| !node.is_null())
    }

    /// The texts of the mapping at a path, by their keys.
    pub(crate) fn texts(&self, path: &FieldPath) -> Vec<(String, String)> {
        let steps = steps(path.as_str());
        let found = steps.iter().try_fold(self, |node, step| node.step(step));
        let entries = found.map(Self::entries).unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.node.as_str()?.to_owned())))
            .collect()
    }

    fn step(&self, step: &Step<'_>) -> Option<&Self> {
        match step {
            Step::Field(name) => self.get(name),
            Step::Key(name) => self
                .entries()
                .iter()
                .find(|entry| entry.key == *name)
                .map(|entry| &entry.node),
            Step::Index(index) => self.items().get(*index),
        }
    }

    /// The paths of all fields that are set, outermost first.
    pub(crate) fn fields(&self) -> Vec<FieldPath> {
        let mut fields = Vec::new();
        self.collect_fields(&FieldPath::default(), &mut fields);
        fields
    }

    fn collect_fields(&self, path: &FieldPath, fields: &mut Vec<FieldPath>) {
        for entry in self.entries().iter().filter(|entry| !entry.node.is_null()) {
            let field = path.field(&entry.key);
            fields.push(field.clone());
            entry.node.collect_fields(&field, fields);
        }
        for (index, item) in self.items().iter().enumerate() {
            item.collect_fields(&path.index(index), fields);
        }
    }

    /// Takes out the fields that their mapping has before, and says where they were written again.
    pub(crate) fn take_repeated(&mut self) -> Vec<(FieldPath, Place)> {
        let mut found = Vec::new();
        self.collect_repeated(&FieldPath::default(), &mut found);
        found
    }

    fn collect_repeated(&mut self, path: &FieldPath, found: &mut Vec<(FieldPath, Place)>) {
        match &mut self.value {
            Value::Map(entries) => {
                let mut seen = BTreeSet::new();
                entries.retain(|entry| {
                    // `on` and `y` are both "true" here: they have lost how they were written (YAML 1.1 booleans).
                    let is_word = !matches!(entry.key.as_str(), "true" | "false");
                    let is_new = seen.insert(entry.key.clone()) || !is_word;
                    if !is_new {
                        found.push((path_of(path, &entry.key), entry.key_place));
                    }
                    is_new
                });
                for entry in entries {
                    entry
                        .node
                        .collect_repeated(&path_of(path, &entry.key), found);
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.collect_repeated(&path.index(index), found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Moves every place down by `lines`: a document begins where its file says.
    pub(crate) fn move_down(&mut self, lines: u32) {
        self.place.line += lines;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_down(lines)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.key_place.line += lines;
                    entry.node.move_down(lines);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.clone()),
            Value::String(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }
}

/// The path of a mapping's entry: a field, or a key where it is no word.
fn path_of(path: &FieldPath, key: &str) -> FieldPath {
    if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        path.field(key)
    } else {
        path.key(key)
    }
}

/// Splits `spec.http[1].headers["end-user"]` into its steps.
pub(crate) fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let Some((key, tail)) = quoted.split_once("\"]") else {
                break;
            };
            steps.push(Step::Key(key.replace("\\\"", "\"").replace("\\\\", "\\")));
            rest = tail;
        } else if let Some(bracketed) = rest.strip_prefix('[') {
            let Some((index, tail)) = bracketed.split_once(']') else {
                break;
            };
            let Ok(index) = index.parse() else { break };
            steps.push(Step::Index(index));
            rest = tail;
        } else {
            let dotted = rest.strip_prefix('.').unwrap_or(rest);
            let end = dotted.find(['.', '[']).unwrap_or(dotted.len());
            let (field, tail) = dotted.split_at(end);
            steps.push(Step::Field(field));
            rest = tail;
        }
    }
    steps
}

/// Whether `written` is the snake_case spelling of the camelCase `name`; proto JSON accepts both.
pub(crate) fn is_snake_case_of(written: &str, name: &str) -> bool {
    written.contains('_') && camel_case(written) == name
}

pub(crate) fn camel_case(snake: &str) -> String {
    let mut upper = false;
    let mut camel = String::with_capacity(snake.len());
    for c in snake.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            place: spanned.referenced.into(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<Value>>()? {
            let key_place = key.referenced.into();
            let key = match key.value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    return Err(A::Error::custom("a key must be a string"));
                }
            };
            entries.push(Entry {
                key,
                key_place,
                node: map.next_value()?,
            });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
    headers: {\"end-user\": 5}
";

    fn tree() -> Node {
        serde_saphyr::from_str(TEXT).unwrap()
    }

    #[test]
    fn every_field_has_its_place() {
        let check = |path: &str, line: u32, column: u32| {
            let place = tree().locate(&FieldPath::new(path));
            assert_eq!(place, Place { line, column }, "{path}");
        };
        check("spec.hosts", 2, 3);
        check("spec.hosts[0]", 2, 11);
        check("spec.http[0].route[0].destination.host", 6, 15);
        check("spec.http[0].headers[\"end-user\"]", 7, 27);
        // Not written: the nearest ancestor.
        check("spec.http[0].timeout", 4, 5);
        check("spec.nothing.at.all", 1, 1);
    }

    #[test]
    fn snake_case_fields_are_found_by_their_camel_case_name() {
        let tree: Node = serde_saphyr::from_str("load_balancer: {}").unwrap();
        assert!(tree.get("loadBalancer").is_some());
        assert!(tree.get("load_balancer").is_some());
    }
}
