//! What `kubectl explain` says of fields.

/// Types at the start of a line, their fields below them.
const TEXT: &str = include_str!("descriptions.txt");

/// Type, field, and what the field is for.
fn lines() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let mut of = "";
    let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| match line.strip_prefix("  ") {
        None => {
            of = line;
            None
        }
        Some(field) => {
            let (field, text) = field.split_once(": ")?;
            Some((of, field, text))
        }
    })
}

/// What a field of a type is for; `None` if nothing is said of it.
pub(super) fn description(type_name: &str, field: &str) -> Option<String> {
    let mut lines = lines();
    let found = lines.find(|(of, name, _)| (*of, *name) == (type_name, field));
    found.map(|(.., text)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use meltemi_api::Kind;
    use meltemi_api::schema::{Schema, schema};

    use super::*;

    fn collect(schema: &Schema, found: &mut BTreeMap<&'static str, BTreeSet<String>>) {
        match schema {
            Schema::Message(message) => {
                for (name, schema) in &message.fields {
                    found.entry(message.name).or_default().insert(name.clone());
                    collect(schema, found);
                }
            }
            Schema::List(inner) | Schema::Map(inner) => collect(inner, found),
            _ => {}
        }
    }

    /// A type of which anything is said is described whole, and nothing is said of what is not there.
    #[test]
    fn descriptions_are_of_fields_that_there_are() {
        let mut there = BTreeMap::new();
        for schema in Kind::ALL.iter().filter_map(|kind| schema(*kind)) {
            collect(&schema, &mut there);
        }
        let mut described: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (of, field, text) in lines() {
            assert!(text.ends_with('.'), "{of}.{field}");
            let is_new = described.entry(of).or_default().insert(field.to_owned());
            assert!(is_new, "{of}.{field} is described twice");
        }
        for (of, fields) in &described {
            assert_eq!(there.get(of), Some(fields), "{of}");
        }
        assert!(described.contains_key("VirtualService"));
    }
}
