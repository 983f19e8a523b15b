//! What a YAML parser says of a mistake, in the words of those who write manifests.

/// A part of the parser's text, what it means, and how to mend it. The first that fits counts.
const WORDS: &[(&[&str], &str, &str)] = &[
    (
        &["tab"],
        "a tab stands where blanks must",
        "indent with spaces, YAML allows no tabs",
    ),
    (
        &["unclosed quote", "quoted scalar, found unexpected"],
        "a quotation mark is never closed",
        "close it, or double it inside the quotation",
    ),
    (
        &[
            "unknown escape",
            "escape character",
            "surrogate",
            "hexadecimal",
        ],
        "a backslash in double quotation marks begins no known escape",
        "write \\\\ for a backslash, or use single quotation marks",
    ),
    (
        &[
            "unclosed bracket",
            "placement of ':'",
            "flow sequence",
            "flow mapping",
        ],
        "a [ or { is not closed",
        "close it with ] or }, and separate its entries with commas",
    ),
    (
        &["mapping values are not allowed"],
        "a \":\" stands where no field can begin",
        "align the field with its neighbours, or put a value with a \": \" in quotation marks",
    ),
    (
        &[
            "did not find expected key",
            "simple key expected",
            "block mapping",
        ],
        "the line is no field of the mapping that it stands in",
        "indent it like its neighbours, and write NAME: VALUE",
    ),
    (
        &["'-' indicator", "block sequence", "block collection"],
        "the line is no entry of the list that it stands in",
        "indent it like the other entries, and begin it with \"- \"",
    ),
    (
        &["unknown anchor", "anchor or alias"],
        "a value begins with * or & and names no anchor",
        "put it in quotation marks, or define the anchor with &NAME before it",
    ),
    (
        &["block scalar"],
        "a block text (| or >) is indented wrongly",
        "indent all its lines by more than the field's name",
    ),
    (
        &["a key must be a string"],
        "the name of a field must be a text",
        "put it in quotation marks",
    ),
    (
        &["non-finite", "must be finite"],
        "a number must be finite",
        "put it in quotation marks if it is a text",
    ),
    (
        &["tag"],
        "a value begins with ! and names no known type",
        "put it in quotation marks if it is a text",
    ),
    (
        &["budget", "limit exceeded", "recursion", "too deep"],
        "the document is nested or repeated beyond every use",
        "write it out flatter, with fewer anchors",
    ),
    (
        &["merge"],
        "\"<<\" merges mappings only",
        "give it a mapping that is anchored elsewhere",
    ),
    (
        &["EOF", "eof", "end of input"],
        "the document ends in the middle of a value",
        "write the rest of it",
    ),
];

/// Message and remedy for the parser's text of an error.
pub(super) fn explain(parsers_text: &str) -> (&'static str, &'static str) {
    let fits = |needles: &[&str]| needles.iter().any(|needle| parsers_text.contains(needle));
    WORDS.iter().find(|(needles, ..)| fits(needles)).map_or(
        (
            "the line cannot be read",
            "compare its indentation, quotation marks and punctuation with the lines above",
        ),
        |(_, message, remedy)| (message, remedy),
    )
}

/// Kind, namespace and name of an object whose document cannot be read, by the lines that say so in block style.
pub(super) fn object_of(text: &str) -> Option<(String, Option<String>, String)> {
    let value = |line: &str, field: &str| {
        let rest = line.trim_start().strip_prefix(field)?.strip_prefix(':')?;
        let rest = rest.split(" #").next().unwrap_or_default();
        let plain = rest.trim().trim_matches(['"', '\'']).to_owned();
        (!plain.is_empty()).then_some(plain)
    };
    let is_top = |line: &&str| !line.starts_with([' ', '\t', '-', '#']) && !line.trim().is_empty();
    let kind = text
        .lines()
        .filter(is_top)
        .find_map(|line| value(line, "kind"))?;
    let mut metadata = text
        .lines()
        .skip_while(|line| !line.starts_with("metadata:"));
    let first = metadata.next()?;
    let below: Vec<&str> = metadata.take_while(|line| !is_top(line)).collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let level = below
        .iter()
        .map(|line| indent(line))
        .find(|level| *level > 0);
    let own = |field: &str| {
        let mut lines = below.iter().filter(|line| Some(indent(line)) == level);
        lines.find_map(|line| value(line, field))
    };
    let inline = || {
        let inside = first.split_once('{')?.1;
        let mut fields = inside.split([',', '}']);
        fields.find_map(|field| value(field, "name"))
    };
    let name = own("name").or_else(inline)?;
    Some((kind, own("namespace"), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_document_still_names_its_object() {
        let check = |text: &str, expected: Option<(&str, Option<&str>, &str)>| {
            let found = object_of(text);
            let found = found.as_ref().map(|(kind, namespace, name)| {
                (kind.as_str(), namespace.as_deref(), name.as_str())
            });
            assert_eq!(found, expected, "{text}");
        };
        check(
            "kind: Service # web\nmetadata:\n  labels:\n    name: other\n  name: \"web\"\n  namespace: shop\nspec: [\n",
            Some(("Service", Some("shop"), "web")),
        );
        check(
            "kind: Pod\nmetadata: {name: a}\nspec: {\n",
            Some(("Pod", None, "a")),
        );
        check("metadata:\n  name: a\n", None);
        check("kind: Pod\nspec:\n  name: a\n", None);
    }
}
