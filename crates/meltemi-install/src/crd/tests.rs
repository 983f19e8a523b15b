use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// What Istio's own definitions say of our kinds, a line for each name, version and field. `int32` stands there as the
/// bounds it means, and so does the CEL rule for ports.
const ISTIO: &str = include_str!("../../testdata/istio-definitions.txt");

fn described() -> Vec<String> {
    let mut lines = Vec::new();
    for definition in definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let spec = &definition["spec"];
        let (names, kind) = (&spec["names"], spec["names"]["kind"].as_str().unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        lines.push(format!(
            "{kind} {} {} {} {} {} {} {}",
            text(&spec["group"]),
            text(&names["plural"]),
            text(&names["singular"]),
            text(&names["listKind"]),
            list(&names["shortNames"]),
            list(&names["categories"]),
            text(&spec["scope"]),
        ));
        for version in spec["versions"].as_array().unwrap() {
            let columns = version["additionalPrinterColumns"].as_array().unwrap();
            let columns: Vec<String> = columns
                .iter()
                .map(|column| {
                    let of = |field: &str| text(&column[field]);
                    format!("{}:{}:{}", of("name"), of("type"), of("jsonPath"))
                })
                .collect();
            lines.push(format!(
                "{kind} {} served={} storage={} status={} {}",
                text(&version["name"]),
                version["served"],
                version["storage"],
                version["subresources"]["status"].is_object(),
                columns.join(","),
            ));
        }
        let root = &spec["versions"][0]["schema"]["openAPIV3Schema"];
        lines.push(line(&format!("{kind} root"), root));
        describe(
            &root["properties"]["spec"],
            &format!("{kind}.spec"),
            &mut lines,
        );
    }
    lines
}

fn describe(schema: &Value, path: &str, lines: &mut Vec<String>) {
    let kind = schema["type"].as_str().unwrap_or("any");
    lines.push(line(&format!("{path} {kind}"), schema));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        describe(field, &format!("{path}.{name}"), lines);
    }
    if schema["items"].is_object() {
        describe(&schema["items"], &format!("{path}[]"), lines);
    }
    if schema["additionalProperties"].is_object() {
        describe(
            &schema["additionalProperties"],
            &format!("{path}{{}}"),
            lines,
        );
    }
}

fn line(start: &str, schema: &Value) -> String {
    let mut words = vec![start.to_owned()];
    if schema["nullable"] == true {
        words.push("nullable".to_owned());
    }
    if schema["enum"].is_array() {
        words.push(format!("enum={}", sorted(&schema["enum"], "|")));
    }
    if schema["required"].is_array() {
        words.push(format!("required={}", sorted(&schema["required"], ",")));
    }
    for (name, field) in [
        ("format", "format"),
        ("min", "minimum"),
        ("max", "maximum"),
        ("maxLength", "maxLength"),
        ("minItems", "minItems"),
        ("maxItems", "maxItems"),
        ("minProperties", "minProperties"),
        ("maxProperties", "maxProperties"),
    ] {
        match &schema[field] {
            Value::Null => {}
            Value::String(text) => words.push(format!("{name}={text}")),
            number => words.push(format!("{name}={}", number.as_f64().unwrap())),
        }
    }
    if schema["x-kubernetes-list-map-keys"].is_array() {
        words.push(format!(
            "keys={}",
            list(&schema["x-kubernetes-list-map-keys"])
        ));
    }
    let choices = schema["allOf"].as_array().into_iter().flatten();
    let mut choices: Vec<String> = choices
        .map(|choice| {
            let sides = choice["oneOf"].as_array().unwrap().iter();
            let names: Value = sides
                .filter(|side| side["required"].is_array())
                .map(|side| side["required"][0].clone())
                .collect();
            format!("choice={}", sorted(&names, "|"))
        })
        .collect();
    choices.sort();
    words.append(&mut choices);
    if let Some(rules) = schema["x-kubernetes-validations"].as_array() {
        words.push(format!("cel={}", rules.len()));
    }
    words.join(" ")
}

fn list(value: &Value) -> String {
    let words = value.as_array().into_iter().flatten();
    let words: Vec<&str> = words.map(|word| word.as_str().unwrap()).collect();
    words.join(",")
}

fn sorted(value: &Value, separator: &str) -> String {
    let words = value.as_array().into_iter().flatten();
    let words: BTreeSet<&str> = words.map(|word| word.as_str().unwrap()).collect();
    words.into_iter().collect::<Vec<_>>().join(separator)
}

/// Field by field: of each is demanded what Istio demands, and none is missing or added.
#[test]
fn our_definitions_say_what_istios_say() {
    let ours = described();
    let ours: BTreeSet<&str> = ours.iter().map(String::as_str).collect();
    let istios: BTreeSet<&str> = ISTIO.lines().collect();
    let missing = istios.difference(&ours);
    let missing = missing.map(|line| format!("Istio's: {line}"));
    let added = ours.difference(&istios);
    let added = added.map(|line| format!("ours:    {line}"));
    let differ: Vec<String> = missing.chain(added).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn each_rule_is_for_a_type_that_is_decoded() {
    fn collect(schema: &Schema, names: &mut BTreeSet<&'static str>) {
        match schema {
            Schema::Message(message) => {
                names.insert(message.name);
                message
                    .fields
                    .iter()
                    .for_each(|(_, field)| collect(field, names));
            }
            Schema::List(below) | Schema::Map(below) => collect(below, names),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    for schema in Kind::ALL.iter().filter_map(|kind| schema(*kind)) {
        collect(&schema, &mut names);
    }
    for name in rules::TYPES {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn a_choice_lets_none_or_one_through() {
    let mut object = JSONSchemaProps::default();
    rules::at_most_one(&mut object, &["a", "b"]);
    let expected = json!({"allOf": [{"oneOf": [
        {"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
        {"required": ["a"]},
        {"required": ["b"]},
    ]}]});
    assert_eq!(serde_json::to_value(object).unwrap(), expected);
}
