//! `-o custom-columns=` and `--sort-by`: tables and orders that a user makes of paths.

use std::cmp::Ordering;
use std::str::FromStr;

use serde_json::Value;

use crate::cli::jsonpath::Template;
use crate::cli::table::Table;

/// TITLE:PATH, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CustomColumns(Vec<(String, Template)>);

impl FromStr for CustomColumns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let column = |column: &str| {
            let (title, path) = column.split_once(':').ok_or_else(|| {
                format!("\"{column}\" is not TITLE:PATH, such as NAME:.metadata.name")
            })?;
            Ok((title.to_owned(), Template::relaxed(path)?))
        };
        let columns = apart(text).into_iter().map(column);
        Ok(Self(columns.collect::<Result<_, String>>()?))
    }
}

impl CustomColumns {
    pub(super) fn table<'a>(&self, objects: impl Iterator<Item = &'a Value>) -> Table {
        let titles: Vec<&str> = self.0.iter().map(|(title, _)| title.as_str()).collect();
        let mut table = Table::new(&titles);
        for object in objects {
            let cell = |path: &Template| {
                let values = path.values(object);
                if values.is_empty() {
                    "<none>".to_owned()
                } else {
                    values.join(",")
                }
            };
            table.row(self.0.iter().map(|(_, path)| cell(path)).collect());
        }
        table
    }
}

/// Splits at commas outside of brackets.
fn apart(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|letter| {
        match letter {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .collect()
}

/// The order of what a path leads to: numbers as numbers, else as text; what is not there comes first.
pub(super) fn order(path: &Template, a: &Value, b: &Value) -> Ordering {
    let value = |object| path.values(object).into_iter().next();
    let number = |text: &Option<String>| text.as_ref()?.parse::<f64>().ok();
    let (a, b) = (value(a), value(b));
    match (number(&a), number(&b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_titles_and_paths() {
        let columns: CustomColumns =
            "NAME:.metadata.name,IMAGES:.spec.containers[*].image,NODE:{.spec.nodeName},TWO:.a['b','c']"
                .parse()
                .unwrap();
        let pod = json!({
            "metadata": {"name": "web"}, "spec": {"containers": [{"image": "a"}, {"image": "b"}]},
            "a": {"b": 1, "c": 2},
        });
        let mut out = Vec::new();
        columns.table([pod].iter()).print(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME   IMAGES   NODE     TWO\nweb    a,b      <none>   1,2\n"
        );
        for wrong in ["NAME", "NAME:.a[", ""] {
            assert!(wrong.parse::<CustomColumns>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let path = Template::relaxed(".n").unwrap();
        let mut objects = [json!({"n": 10}), json!({"n": 9}), json!({})];
        objects.sort_by(|a, b| order(&path, a, b));
        assert_eq!(objects, [json!({}), json!({"n": 9}), json!({"n": 10})]);
        let mut names = [json!({"n": "b"}), json!({"n": "a"})];
        names.sort_by(|a, b| order(&path, a, b));
        assert_eq!(names[0], json!({"n": "a"}));
    }
}
