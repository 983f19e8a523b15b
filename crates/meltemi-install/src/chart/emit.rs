//! Writes an object as the text of a template: YAML, with expressions in some places.

use serde_json::{Value, json};

/// Mark what is no object of Kubernetes but a place of a template.
const EXPRESSION: &str = "$expression";
const BLOCK: &str = "$block";
const CONDITION: &str = "$if";
const THEN: &str = "$then";
const ELSE: &str = "$else";
const LITERAL: &str = "$literal";

/// A scalar: `{{ expression }}`.
pub(super) fn expression(text: &str) -> Value {
    json!({EXPRESSION: text})
}

/// Lines, indented as their place wants it.
pub(super) fn block(text: &str) -> Value {
    json!({BLOCK: text})
}

/// A text of many lines.
pub(super) fn literal(text: &str) -> Value {
    json!({LITERAL: text})
}

/// One of two things in the same place.
pub(super) fn either(condition: &str, then: Value, otherwise: Value) -> Value {
    json!({CONDITION: condition, THEN: then, ELSE: otherwise})
}

/// A field or an item that is there under a condition.
pub(super) fn only_if(condition: &str, then: Value) -> Value {
    json!({CONDITION: condition, THEN: then})
}

/// Puts something into a place that is there, by its JSON pointer.
pub(super) fn put(object: &mut Value, pointer: &str, what: Value) {
    let found = object.pointer_mut(pointer);
    *found.unwrap_or_else(|| panic!("there is no {pointer}")) = what;
}

/// What stands in a place, under a condition from now on.
pub(super) fn condition(object: &mut Value, pointer: &str, condition: &str) {
    let there = object.pointer(pointer).cloned().unwrap();
    put(object, pointer, only_if(condition, there));
}

pub(super) fn text(object: &Value) -> String {
    let mut out = String::new();
    fields(&mut out, object, 0);
    out
}

fn fields(out: &mut String, object: &Value, indent: usize) {
    for (name, value) in object.as_object().into_iter().flatten() {
        field(out, name, value, indent);
    }
}

fn field(out: &mut String, name: &str, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    let name_text = scalar(&Value::from(name));
    if let Some((condition, then)) = conditional(value) {
        *out += &format!("{pad}{{{{- if {condition} }}}}\n");
        field(out, name, then, indent);
        if let Some(otherwise) = value.get(ELSE) {
            *out += &format!("{pad}{{{{- else }}}}\n");
            field(out, name, otherwise, indent);
        }
        *out += &format!("{pad}{{{{- end }}}}\n");
    } else if let Some(text) = value[EXPRESSION].as_str() {
        *out += &format!("{pad}{name_text}: {{{{ {text} }}}}\n");
    } else if let Some(text) = value[BLOCK].as_str() {
        let indent = indent + 2;
        *out += &format!("{pad}{name_text}:\n{pad}  {{{{- {text} | nindent {indent} }}}}\n");
    } else if let Some(text) = value[LITERAL].as_str() {
        let indent = indent + 2;
        *out += &format!("{pad}{name_text}: |-\n{pad}  {{{{- {text} | nindent {indent} }}}}\n");
    } else if value.as_object().is_some_and(|fields| !fields.is_empty()) {
        *out += &format!("{pad}{name_text}:\n");
        fields(out, value, indent + 2);
    } else if let Some(list) = value.as_array().filter(|list| !list.is_empty()) {
        *out += &format!("{pad}{name_text}:\n");
        for value in list {
            item(out, value, indent + 2);
        }
    } else if let Some(text) = value.as_str().filter(|text| text.contains('\n')) {
        *out += &format!("{pad}{name_text}: |-\n");
        for line in text.lines() {
            *out += &format!("{pad}  {line}\n");
        }
    } else {
        *out += &format!("{pad}{name_text}: {}\n", scalar(value));
    }
}

fn item(out: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    if let Some((condition, then)) = conditional(value) {
        *out += &format!("{pad}{{{{- if {condition} }}}}\n");
        item(out, then, indent);
        if let Some(otherwise) = value.get(ELSE) {
            *out += &format!("{pad}{{{{- else }}}}\n");
            item(out, otherwise, indent);
        }
        *out += &format!("{pad}{{{{- end }}}}\n");
    } else if let Some(text) = value[EXPRESSION].as_str() {
        *out += &format!("{pad}- {{{{ {text} }}}}\n");
    } else if let Some(text) = value[BLOCK].as_str() {
        *out += &format!("{pad}{{{{- {text} | nindent {indent} }}}}\n");
    } else if value.is_object() {
        let mut inside = String::new();
        fields(&mut inside, value, indent + 2);
        let first = inside.strip_prefix(&format!("{pad}  ")).unwrap();
        assert!(
            !first.starts_with("{{"),
            "the first field of an item is always there"
        );
        *out += &format!("{pad}- {first}");
    } else {
        *out += &format!("{pad}- {}\n", scalar(value));
    }
}

fn conditional(value: &Value) -> Option<(&str, &Value)> {
    Some((value[CONDITION].as_str()?, &value[THEN]))
}

/// As JSON, which is YAML, but for words that cannot be anything else than a text.
fn scalar(value: &Value) -> String {
    let plain = |text: &&str| {
        let has_letter = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
        let is_word = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c));
        let is_other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
        has_letter && is_word && !is_other.contains(&text.to_lowercase().as_str())
    };
    match value.as_str().filter(plain) {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

#[test]
fn expressions_stand_where_they_are_put() {
    let mut object = json!({
        "a": {"b": 1, "c": "x: y"}, "d": ["e", {"f": "true", "g": []}], "h": "i\nj", "k": {},
    });
    put(&mut object, "/a/b", expression("int .Values.b"));
    put(
        &mut object,
        "/k",
        only_if(".Values.k", block("toYaml .Values.k")),
    );
    condition(&mut object, "/d/0", "eq 1 1");
    let expected = r#"a:
  b: {{ int .Values.b }}
  c: "x: y"
d:
  {{- if eq 1 1 }}
  - e
  {{- end }}
  - f: "true"
    g: []
h: |-
  i
  j
{{- if .Values.k }}
k:
  {{- toYaml .Values.k | nindent 2 }}
{{- end }}
"#;
    assert_eq!(text(&object), expected);
}
