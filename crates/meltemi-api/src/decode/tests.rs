use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Outer {
    host_name: String,
    count: u32,
    big: u64,
    inner: Vec<Inner>,
    by_port: BTreeMap<u16, bool>,
    mode: Option<Mode>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Inner {
    weight: i32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    Strict,
    Permissive,
}

fn decode_text(text: &str) -> (Option<Outer>, Vec<Problem>) {
    let tree: Node = serde_saphyr::from_str(text).unwrap();
    decode(&tree, &FieldPath::default(), &|path| {
        path.as_str() == "later"
    })
}

#[test]
fn both_spellings_null_and_numbers_in_strings_are_read() {
    let (outer, problems) = decode_text(
        "host_name: a\ncount: null\nbig: '18446744073709551615'\nby_port: {'80': true}\nmode: STRICT",
    );
    assert_eq!(problems, []);
    assert_eq!(
        outer.unwrap(),
        Outer {
            host_name: "a".to_owned(),
            big: u64::MAX,
            by_port: [(80, true)].into(),
            mode: Some(Mode::Strict),
            ..Outer::default()
        }
    );
}

#[test]
fn every_wrong_value_is_reported_with_its_path() {
    let (outer, problems) = decode_text(
        "hostName: 5\ncount: -1\ninner: [{weight: 1}, {weight: x}, 7]\nbyPort: {http: true}\nmode: STRCT",
    );
    assert_eq!(outer, None);
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "hostName",
            "count",
            "inner[1].weight",
            "inner[2]",
            "byPort[\"http\"]",
            "mode"
        ]
    );
    assert_eq!(problems[0].hint, "put the value in quotation marks");
    assert_eq!(problems[5].hint, "did you mean \"STRICT\"?");
}

#[test]
fn unknown_fields_do_not_prevent_decoding_and_are_reported_once() {
    let (outer, problems) =
        decode_text("hostNmae: a\ncount: 3\nlater: {any: thing}\ninner: [{wieght: 3}]");
    assert_eq!(outer.unwrap().count, 3);
    let found: Vec<(&str, &str)> = problems
        .iter()
        .map(|problem| (problem.path.as_str(), problem.hint.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("hostNmae", "did you mean \"hostName\"?"),
            ("inner[0].wieght", "did you mean \"weight\"?"),
        ]
    );
}
