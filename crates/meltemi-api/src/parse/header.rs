//! Which object a tree is: apiVersion, kind, namespace, name.

use meltemi_core::{Diagnostic, FieldPath, ObjectRef, Severity};

use super::Report;
use crate::object::{Kind, ObjectKey, Scope};
use crate::suggest;
use crate::support::{UNREAD_KINDS, Unread};
use crate::tree::Node;

pub(super) enum Header {
    Object(ObjectKey),
    /// Recognised, and nothing reads it.
    Unread,
    /// Cannot be told; reported.
    Unknown,
}

pub(super) fn read(tree: &Node, default_namespace: &str, report: &mut Report) -> Header {
    if !matches!(tree.value, crate::tree::Value::Map(_)) {
        report.add(
            tree,
            FieldPath::default(),
            Diagnostic::error(
                "MEL0002",
                "an object is a mapping with apiVersion, kind and metadata",
            )
            .hint("begin it with apiVersion: and kind:, one field a line"),
        );
        return Header::Unknown;
    }
    let text = |field| {
        let text = tree.get(field).and_then(Node::as_str);
        text.filter(|text| !text.is_empty())
    };
    let metadata = tree.get("metadata");
    let of_metadata = |field| {
        let text = metadata?.get(field).and_then(Node::as_str);
        text.filter(|text| !text.is_empty())
    };
    let name = of_metadata("name");
    let namespace = of_metadata("namespace").unwrap_or(default_namespace);
    let kind = text("kind");
    // As far as it is known already; what follows speaks of it.
    report.object = kind
        .or(name)
        .map(|_| reference(kind.unwrap_or("?"), namespace, name.unwrap_or("?")));
    let (Some(api_version), Some(kind)) = (text("apiVersion"), kind) else {
        missing_type(tree, text("apiVersion"), kind, report);
        return Header::Unknown;
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let known = Kind::ALL
        .iter()
        .copied()
        .find(|known| known.as_str() == kind && known.group() == group);
    let Some(known) = known else {
        return unread_or_unknown(tree, group, kind, report);
    };
    if !known.versions().contains(&version) {
        report.add(
            tree,
            FieldPath::new("apiVersion"),
            Diagnostic::error(
                "MEL0003",
                format!("{kind} has no version \"{api_version}\""),
            )
            .hint(format!("write apiVersion: {}", api_version_of(known))),
        );
        return Header::Unknown;
    }
    let Some(name) = name.filter(|name| is_object_name(name)) else {
        report.add(tree, FieldPath::new("metadata.name"), bad_name(kind, name));
        return Header::Unknown;
    };
    let namespace = match known.scope() {
        Scope::Cluster => "",
        Scope::Namespaced => namespace,
    };
    Header::Object(ObjectKey::new(known, namespace, name))
}

/// How an object is spoken of; one of the whole cluster has no namespace.
pub(super) fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    let is_of_cluster = |known: &&Kind| known.as_str() == kind && known.scope() == Scope::Cluster;
    let namespace = if Kind::ALL.iter().any(|known| is_of_cluster(&known)) {
        ""
    } else {
        namespace
    };
    ObjectRef::new(kind, namespace, name)
}

/// `apiVersion` or `kind` is not written; what the other allows is the remedy.
fn missing_type(tree: &Node, api_version: Option<&str>, kind: Option<&str>, report: &mut Report) {
    if api_version.is_none() {
        let known = Kind::ALL.iter().find(|known| Some(known.as_str()) == kind);
        let hint = known.map_or_else(
            || "write for instance apiVersion: v1".to_owned(),
            |known| format!("write apiVersion: {}", api_version_of(*known)),
        );
        let diagnostic = Diagnostic::error("MEL0002", "apiVersion is required").hint(hint);
        report.add(tree, FieldPath::new("apiVersion"), diagnostic);
    }
    if kind.is_none() {
        let of_group = |known: &&Kind| Some(api_version_of(**known).as_str()) == api_version;
        let kinds: Vec<&str> = Kind::ALL
            .iter()
            .filter(of_group)
            .map(|known| known.as_str())
            .collect();
        let hint = match kinds.as_slice() {
            [] => "write for instance kind: Service".to_owned(),
            kinds => format!("write kind: and one of {}", kinds.join(", ")),
        };
        let diagnostic = Diagnostic::error("MEL0002", "kind is required").hint(hint);
        report.add(tree, FieldPath::new("kind"), diagnostic);
    }
}

fn bad_name(kind: &str, name: Option<&str>) -> Diagnostic {
    let Some(name) = name else {
        return Diagnostic::error("IST0106", format!("this {kind} has no name"))
            .hint("write name: below metadata:");
    };
    let lower = name.to_ascii_lowercase().replace(['_', ' '], "-");
    let hint = if is_object_name(&lower) {
        format!("write for instance \"{lower}\"")
    } else {
        "choose such a name".to_owned()
    };
    let rule = "a name is lower-case letters, digits, dashes and dots, at most 253 bytes";
    Diagnostic::error("IST0106", rule).hint(hint)
}

fn unread_or_unknown(tree: &Node, group: &str, kind: &str, report: &mut Report) -> Header {
    let unread = UNREAD_KINDS
        .iter()
        .find(|(known_group, known_kind, _)| *known_group == group && *known_kind == kind);
    let field = FieldPath::new("kind");
    if let Some((_, _, why)) = unread {
        let diagnostic = match why {
            Unread::Security => Diagnostic::error(
                "MEL0004",
                format!("{kind} is not supported yet: nothing enforces this policy"),
            )
            .hint("do not rely on it; PeerAuthentication, RequestAuthentication and AuthorizationPolicy are enforced"),
            Unread::Mesh => Diagnostic::warning(
                "MEL0004",
                format!("{kind} is not supported yet, the object is ignored"),
            )
            .hint("nothing acts on it; the other objects of the file are taken"),
            Unread::Kubernetes => Diagnostic::new(
                "MEL0009",
                Severity::Info,
                format!("the mesh does not use {kind}, the object is ignored"),
            ),
        };
        report.add(tree, field, diagnostic);
        return Header::Unread;
    }
    if is_foreign(group) {
        let message = format!("the mesh does not use {kind} of {group}, the object is ignored");
        let diagnostic = Diagnostic::new("MEL0009", Severity::Info, message);
        report.add(tree, field, diagnostic);
        return Header::Unread;
    }
    let (field, diagnostic) = unknown_kind(group, kind);
    report.add(tree, field, diagnostic);
    Header::Unknown
}

/// Whether a group is neither known nor a known one misspelt.
fn is_foreign(group: &str) -> bool {
    let known = Kind::ALL
        .iter()
        .map(|kind| kind.group())
        .chain(UNREAD_KINDS.iter().map(|(known, ..)| *known));
    !known.clone().any(|known| known == group)
        && !group.ends_with("istio.io")
        && suggest::did_you_mean(group, known).is_none()
}

/// A wrong group and a misspelt kind have different remedies.
fn unknown_kind(group: &str, kind: &str) -> (FieldPath, Diagnostic) {
    let same_kind = Kind::ALL.iter().find(|known| known.as_str() == kind);
    if let Some(known) = same_kind {
        let message = format!("{kind} is not in the API group \"{group}\"");
        return (
            FieldPath::new("apiVersion"),
            Diagnostic::error("MEL0003", message)
                .hint(format!("write apiVersion: {}", api_version_of(*known))),
        );
    }
    let kinds = Kind::ALL
        .iter()
        .map(|known| known.as_str())
        .chain(UNREAD_KINDS.iter().map(|(_, known, _)| *known));
    let hint = suggest::did_you_mean(kind, kinds).map_or_else(
        || {
            let known = Kind::ALL.iter().map(|known| known.as_str());
            format!("known here: {}", known.collect::<Vec<_>>().join(", "))
        },
        |near| format!("did you mean \"{near}\"?"),
    );
    (
        FieldPath::new("kind"),
        Diagnostic::error("MEL0003", format!("unknown kind \"{kind}\"")).hint(hint),
    )
}

fn api_version_of(kind: Kind) -> String {
    let version = kind.versions().first().copied().unwrap_or_default();
    match kind.group() {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// A DNS subdomain (RFC 1123), as Kubernetes asks of names.
fn is_object_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.')
}
