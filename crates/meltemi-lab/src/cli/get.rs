//! `get`: objects as tables, documents, names or what a template takes of them.

mod cells;
mod columns;
mod custom;
mod pods;

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use self::cells::{labels, text};
use self::columns::{Column, columns, is_named};
use self::custom::CustomColumns;
use super::endpoints;
use super::jsonpath::Template;
use super::kinds::{self, Kind};
use super::selector::Selector;
use super::table::Table;
use crate::client::LabClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab get pods\n  meltemi lab get pods -A -o wide\n  meltemi lab get deploy -o yaml\n  \
                        meltemi lab get vs,dr\n  meltemi lab get svc/reviews -o json\n  \
                        meltemi lab get pod -l app=ratings -o jsonpath='{.items[0].metadata.name}'\n  meltemi lab get pods -w\n  meltemi lab get events -A\n  \
                        meltemi lab get pods --sort-by=.metadata.creationTimestamp -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName"
)]
pub(super) struct Options {
    /// KIND[,KIND...] [NAME...] or KIND/NAME...
    #[arg(required = true)]
    words: Vec<String>,
    /// The namespace of the objects.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Objects of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels: K=V,K2!=V2,K3 in (A,B).
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: Selector,
    /// wide, json, yaml, name, jsonpath=TEMPLATE or custom-columns=TITLE:PATH,...; a table otherwise.
    #[arg(short, long, default_value = "table", hide_default_value = true)]
    output: Output,
    /// The order, by what a path such as .metadata.creationTimestamp leads to.
    #[arg(long, value_name = "PATH", value_parser = Template::relaxed)]
    sort_by: Option<Template>,
    /// Go on and show what changes.
    #[arg(short, long)]
    watch: bool,
    /// A column with all labels.
    #[arg(long)]
    show_labels: bool,
    /// A column with the value of this label; may be given again.
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Leave out the header line.
    #[arg(long)]
    no_headers: bool,
    /// Do not fail when an object is not there.
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    Custom(CustomColumns),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "table" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            _ => match text.split_once('=') {
                Some(("jsonpath", template)) => Self::JsonPath(template.parse()?),
                Some(("custom-columns", columns)) => Self::Custom(columns.parse()?),
                _ => {
                    let known =
                        "wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=TITLE:PATH";
                    return Err(format!("one of {known}"));
                }
            },
        })
    }
}

/// The objects that one kind of the command line stands for.
struct Found {
    kind: &'static Kind,
    objects: Vec<Value>,
    /// Names that were asked for and are not there.
    missing: Vec<String>,
}

pub(super) async fn get(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let kinds = wanted(&options.words)?;
    anyhow::ensure!(
        !options.watch || kinds.iter().all(|(kind, _)| kind.kind != kinds::EVENT),
        "events are not watched; `meltemi lab get pods -w` shows pods as they change"
    );
    let (mut found, mut revision) = find_all(client, options).await?;
    let errors = not_found(&found, &options.namespace);
    // What is there is shown all the same; where nothing is, the errors alone speak.
    if errors.is_empty() || found.iter().any(|found| !found.objects.is_empty()) {
        found.retain(|found| found.missing.is_empty() || !found.objects.is_empty());
        show(options, found, true)?;
    }
    if !errors.is_empty() && !options.ignore_not_found {
        for error in errors {
            anstream::eprintln!("Error: {error}");
        }
        return Ok(ExitCode::FAILURE);
    }
    if !options.watch {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let seen = revision;
        client.changed(seen).await?;
        let (mut found, now) = find_all(client, options).await?;
        revision = now;
        for Found { objects, .. } in &mut found {
            objects.retain(|object| version(object) > seen);
        }
        found.retain(|found| !found.objects.is_empty());
        if !found.is_empty() {
            show(options, found, false)?;
        }
    }
}

fn not_found(found: &[Found], namespace: &str) -> Vec<String> {
    let of_kind = |found: &Found| {
        let resource = found.kind.resource;
        let missing = found.missing.iter();
        missing
            .map(|name| format!("{resource} \"{name}\" not found in namespace \"{namespace}\""))
            .collect::<Vec<_>>()
    };
    found.iter().flat_map(of_kind).collect()
}

fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion")
        .parse()
        .unwrap_or(0)
}

async fn find_all(client: &LabClient, options: &Options) -> anyhow::Result<(Vec<Found>, u64)> {
    let mut found = Vec::new();
    let mut revision = u64::MAX;
    for (kind, names) in wanted(&options.words)? {
        let (kind, at) = find(client, options, kind, &names).await?;
        found.push(kind);
        revision = revision.min(at);
    }
    Ok((found, revision))
}

fn show(options: &Options, found: Vec<Found>, first: bool) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match &options.output {
        Output::Table | Output::Wide => tables(&mut out, options, &found, first)?,
        Output::Name => {
            for Found { kind, objects, .. } in &found {
                for object in objects {
                    writeln!(out, "{}/{}", kind.resource, text(object, "/metadata/name"))?;
                }
            }
        }
        Output::Json => writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&document(options, found))?
        )?,
        Output::Yaml => write!(
            out,
            "{}",
            serde_saphyr::to_string(&document(options, found))?
        )?,
        Output::Custom(columns) => {
            let objects = found.iter().flat_map(|found| &found.objects);
            let table = columns.table(objects);
            print_table(&mut out, &table, first && !options.no_headers)?;
        }
        Output::JsonPath(template) => {
            write!(out, "{}", template.render(&document(options, found)))?
        }
    }
    out.flush()?;
    Ok(())
}

/// Kinds, each with the names asked for; none stands for all.
pub(super) fn wanted(words: &[String]) -> anyhow::Result<Vec<(&'static Kind, Vec<String>)>> {
    let Some((first, names)) = words.split_first() else {
        return Ok(Vec::new());
    };
    if first.contains('/') {
        let pair = |word: &String| {
            let (kind, name) = word
                .split_once('/')
                .ok_or_else(|| anyhow::anyhow!("\"{word}\" is not KIND/NAME"))?;
            Ok((kinds::find(kind)?, vec![name.to_owned()]))
        };
        return words.iter().map(pair).collect();
    }
    if first == "all" {
        return kinds::ALL
            .iter()
            .map(|kind| Ok((kinds::find(kind)?, names.to_vec())))
            .collect();
    }
    first
        .split(',')
        .map(|kind| Ok((kinds::find(kind)?, names.to_vec())))
        .collect()
}

async fn find(
    client: &LabClient,
    options: &Options,
    kind: &'static Kind,
    names: &[String],
) -> anyhow::Result<(Found, u64)> {
    let namespace =
        (kind.namespaced && !options.all_namespaces).then_some(options.namespace.as_str());
    let (mut objects, revision) = if kind.kind == endpoints::KIND {
        let (slices, revision) = client.objects_at("EndpointSlice", namespace).await?;
        (endpoints::of_slices(&slices), revision)
    } else {
        client.objects_at(kind.kind, namespace).await?
    };
    objects.retain(|object| options.selector.matches(object));
    let is_there = |name: &String| {
        let mut objects = objects.iter();
        objects.any(|object| object["metadata"]["name"] == **name)
    };
    let missing = names.iter().filter(|name| !is_there(name)).cloned();
    let missing = missing.collect();
    if !names.is_empty() {
        objects.retain(|object| names.iter().any(|name| object["metadata"]["name"] == *name));
    }
    objects.sort_by_key(|object| {
        // Events come in the order in which they happened; that of the same second is kept.
        let second = if kind.kind == kinds::EVENT {
            "/lastTimestamp"
        } else {
            "/metadata/name"
        };
        (text(object, "/metadata/namespace"), text(object, second))
    });
    if let Some(path) = &options.sort_by {
        objects.sort_by(|a, b| custom::order(path, a, b));
    }
    let found = Found {
        kind,
        objects,
        missing,
    };
    Ok((found, revision))
}

/// One object by itself when one was named, else a List as kubectl writes it.
fn document(options: &Options, found: Vec<Found>) -> Value {
    let by_name =
        options.words.len() > 1 || options.words.first().is_some_and(|word| word.contains('/'));
    let mut items: Vec<Value> = found.into_iter().flat_map(|found| found.objects).collect();
    if by_name && items.len() == 1 {
        return sorted(items.remove(0));
    }
    let items: Vec<Value> = items.into_iter().map(sorted).collect();
    json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// Fields in the order of their names, as kubectl prints them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted = fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)));
            Value::Object(sorted.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn tables(
    out: &mut impl Write,
    options: &Options,
    found: &[Found],
    with_header: bool,
) -> anyhow::Result<()> {
    let mut is_first = true;
    for Found { kind, objects, .. } in found {
        if objects.is_empty() {
            continue;
        }
        if !is_first && with_header {
            writeln!(out)?;
        }
        is_first = false;
        let table = table(kind, objects, options, found.len() > 1);
        print_table(out, &table, with_header && !options.no_headers)?;
    }
    if is_first {
        match options.all_namespaces {
            true => anstream::eprintln!("No resources found"),
            false => anstream::eprintln!("No resources found in {} namespace.", options.namespace),
        }
    }
    Ok(())
}

fn print_table(out: &mut impl Write, table: &Table, with_header: bool) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    table.print(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer);
    let shown = if with_header {
        &text
    } else {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    };
    write!(out, "{shown}")
}

fn table(kind: &Kind, objects: &[Value], options: &Options, with_kind: bool) -> Table {
    let columns = columns(kind.kind);
    let wide = options.output == Output::Wide;
    let shown: Vec<&Column> = columns
        .iter()
        .filter(|column| wide || !column.wide)
        .collect();
    let namespaced = options.all_namespaces && kind.namespaced;
    let named = is_named(kind.kind);
    let mut header: Vec<&str> = Vec::new();
    header.extend(namespaced.then_some("NAMESPACE"));
    header.extend(named.then_some("NAME"));
    header.extend(shown.iter().map(|column| column.title));
    let titles: Vec<String> = options
        .label_columns
        .iter()
        .map(|label| title(label))
        .collect();
    header.extend(titles.iter().map(String::as_str));
    header.extend(options.show_labels.then_some("LABELS"));
    let mut table = Table::new(&header);
    for object in objects {
        let name = text(object, "/metadata/name");
        let name = if with_kind {
            format!("{}/{name}", kind.resource)
        } else {
            name
        };
        let mut row: Vec<String> = Vec::new();
        row.extend(namespaced.then(|| text(object, "/metadata/namespace")));
        row.extend(named.then_some(name));
        row.extend(shown.iter().map(|column| (column.cell)(object)));
        let own = &object["metadata"]["labels"];
        let value = |label: &String| own[label].as_str().unwrap_or_default().to_owned();
        row.extend(options.label_columns.iter().map(value));
        row.extend(options.show_labels.then(|| labels(own)));
        table.row(row);
    }
    debug_assert!(!table.is_empty(), "a table is made of at least one object");
    table
}

/// `istio-injection` as kubectl heads its column: the last part, in capitals.
fn title(label: &str) -> String {
    let name = label.rsplit('/').next().unwrap_or(label);
    name.to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lists_of_kinds() {
        let kinds = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            wanted(&words)
                .unwrap()
                .into_iter()
                .map(|(kind, names)| format!("{}:{}", kind.kind, names.join(",")))
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds("po,svc"), ["Pod:", "Service:"]);
        assert_eq!(kinds("pod a b"), ["Pod:a,b"]);
        assert_eq!(kinds("deploy/a"), ["Deployment:a"]);
        assert_eq!(kinds("endpoints a"), ["Endpoints:a"]);
        assert!(kinds("all").contains(&"ReplicaSet:".to_owned()));
    }
}
