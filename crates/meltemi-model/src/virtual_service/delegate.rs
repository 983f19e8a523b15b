//! Routes that a VirtualService leaves to another, which has no hosts of its own (Istio reference, `HTTPRoute.delegate`).
//!
//! ```text
//! root: match, fields ─┐
//!                      ├─► one route for each route of the delegate: matches of both, the delegate's fields before the root's
//! delegate: routes  ───┘
//! ```
//! A delegate has no delegates. What contradicts the root is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::{
    HeaderOperations, Headers, HttpMatch, HttpRoute, MeshConfig, StringMatch, VirtualService,
};
use meltemi_api::{Object, Resource};
use meltemi_core::Hostname;

use crate::ExportTo;

/// VirtualServices without hosts, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Delegates<'a>(BTreeMap<(&'a str, &'a str), &'a Arc<Object>>);

impl<'a> Delegates<'a> {
    pub(crate) fn of(objects: impl Iterator<Item = &'a Arc<Object>>) -> Self {
        let without_hosts = objects.filter_map(|object| match &object.resource {
            Resource::VirtualService(spec) if spec.hosts.is_empty() => {
                let meta = &object.meta;
                Some(((meta.namespace.as_str(), meta.name.as_str()), object))
            }
            _ => None,
        });
        Self(without_hosts.collect())
    }

    /// The delegate that a route of a root means, if it is exported to the root's namespace.
    pub(crate) fn find(
        &self,
        route: &HttpRoute,
        root_namespace: &str,
        config: &MeshConfig,
    ) -> Option<(&'a Arc<Object>, &'a VirtualService)> {
        let named = route.delegate.as_ref()?;
        let namespace = match named.namespace.as_str() {
            "" => root_namespace,
            given => given,
        };
        let object = *self.0.get(&(namespace, named.name.as_str()))?;
        let Resource::VirtualService(spec) = &object.resource else {
            return None;
        };
        let default = &config.default_virtual_service_export_to;
        let export_to = ExportTo::new(&spec.export_to, default, namespace);
        export_to
            .includes(root_namespace)
            .then_some((object, spec.as_ref()))
    }

    /// The routes of a root with those of its delegates in their places, and the delegates.
    pub(super) fn resolve(
        &self,
        spec: &VirtualService,
        namespace: &str,
        config: &MeshConfig,
        domain: &str,
    ) -> (VirtualService, Vec<&'a Arc<Object>>) {
        let mut resolved = spec.clone();
        let mut used = Vec::new();
        if spec.http.iter().all(|route| route.delegate.is_none()) {
            return (resolved, used);
        }
        resolved.http.clear();
        for route in &spec.http {
            if route.delegate.is_none() {
                resolved.http.push(route.clone());
            } else if let Some((object, delegate)) = self.find(route, namespace, config) {
                let root = in_namespace(route.clone(), namespace, domain);
                let leaves = delegate.http.iter().filter(|leaf| leaf.delegate.is_none());
                let of = &object.meta.namespace;
                let leaves = leaves.map(|leaf| in_namespace(leaf.clone(), of, domain));
                let merged = leaves.filter_map(|leaf| merged(&root, leaf));
                resolved.http.extend(merged);
                used.push(object);
            }
        }
        (resolved, used)
    }
}

/// Short names mean services of the namespace that they are written in.
fn in_namespace(mut route: HttpRoute, namespace: &str, domain: &str) -> HttpRoute {
    let routes = route.route.iter_mut().map(|to| &mut to.destination);
    let mirrors = route.mirrors.iter_mut().map(|to| &mut to.destination);
    for destination in routes.chain(mirrors).chain(&mut route.mirror) {
        if let Ok(host) = Hostname::resolve(&destination.host, namespace, domain) {
            destination.host = host.to_string();
        }
    }
    route
}

fn joined(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", name) | (name, "") => name.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}

/// `None` if no request could match both.
fn merged(root: &HttpRoute, leaf: HttpRoute) -> Option<HttpRoute> {
    let matches: Vec<HttpMatch> = match (&root.matches[..], &leaf.matches[..]) {
        ([], all) | (all, []) => all.to_vec(),
        (roots, leaves) => {
            let pairs = leaves
                .iter()
                .flat_map(|leaf| roots.iter().map(move |root| (root, leaf)));
            let both: Vec<_> = pairs
                .filter_map(|(root, leaf)| merged_match(root, leaf))
                .collect();
            if both.is_empty() {
                return None;
            }
            both
        }
    };
    Some(HttpRoute {
        name: joined(&root.name, &leaf.name),
        matches,
        delegate: None,
        rewrite: leaf.rewrite.clone().or_else(|| root.rewrite.clone()),
        timeout: leaf.timeout.or(root.timeout),
        retries: leaf.retries.clone().or_else(|| root.retries.clone()),
        fault: leaf.fault.clone().or_else(|| root.fault.clone()),
        mirror: leaf.mirror.clone().or_else(|| root.mirror.clone()),
        mirror_percentage: leaf.mirror_percentage.or(root.mirror_percentage),
        mirrors: match &leaf.mirrors[..] {
            [] => root.mirrors.clone(),
            own => own.to_vec(),
        },
        cors_policy: leaf
            .cors_policy
            .clone()
            .or_else(|| root.cors_policy.clone()),
        headers: merged_headers(root.headers.as_ref(), leaf.headers.as_ref()),
        ..leaf
    })
}

fn merged_headers(root: Option<&Headers>, leaf: Option<&Headers>) -> Option<Headers> {
    let (root, leaf) = match (root, leaf) {
        (None, one) | (one, None) => return one.cloned(),
        (Some(root), Some(leaf)) => (root, leaf),
    };
    Some(Headers {
        request: merged_operations(root.request.as_ref(), leaf.request.as_ref()),
        response: merged_operations(root.response.as_ref(), leaf.response.as_ref()),
    })
}

fn merged_operations(
    root: Option<&HeaderOperations>,
    leaf: Option<&HeaderOperations>,
) -> Option<HeaderOperations> {
    let mut merged = root.or(leaf)?.clone();
    if let (Some(_), Some(leaf)) = (root, leaf) {
        merged.set.extend(leaf.set.clone());
        merged.add.extend(leaf.add.clone());
        merged.remove.extend(leaf.remove.iter().cloned());
    }
    Some(merged)
}

/// All that both ask for; `None` if they contradict each other.
fn merged_match(root: &HttpMatch, leaf: &HttpMatch) -> Option<HttpMatch> {
    let both = |root: &Option<StringMatch>, leaf: &Option<StringMatch>| match (root, leaf) {
        (None, one) | (one, None) => Some(one.clone()),
        (Some(root), Some(leaf)) => narrows(root, leaf).then(|| Some(leaf.clone())),
    };
    let same = |root: &str, leaf: &str| match (root, leaf) {
        ("", one) | (one, "") => Some(one.to_owned()),
        (root, leaf) => (root == leaf).then(|| leaf.to_owned()),
    };
    let port = match (root.port, leaf.port) {
        (None, one) | (one, None) => one,
        (Some(root), Some(leaf)) if root == leaf => Some(leaf),
        _ => return None,
    };
    let gateways = match (&root.gateways[..], &leaf.gateways[..]) {
        ([], one) | (one, []) => one.to_vec(),
        (root, leaf) if leaf.iter().all(|gateway| root.contains(gateway)) => leaf.to_vec(),
        _ => return None,
    };
    let mut source_labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in root.source_labels.iter().chain(leaf.source_labels.iter()) {
        let before = source_labels.insert(key.to_owned(), value.to_owned());
        if before.is_some_and(|before| before != value) {
            return None;
        }
    }
    // One flag is for the whole match.
    if root.uri.is_some() && leaf.uri.is_some() && root.ignore_uri_case != leaf.ignore_uri_case {
        return None;
    }
    Some(HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: both(&root.uri, &leaf.uri)?,
        scheme: both(&root.scheme, &leaf.scheme)?,
        method: both(&root.method, &leaf.method)?,
        authority: both(&root.authority, &leaf.authority)?,
        headers: merged_maps(&root.headers, &leaf.headers)?,
        without_headers: merged_maps(&root.without_headers, &leaf.without_headers)?,
        query_params: merged_maps(&root.query_params, &leaf.query_params)?,
        port,
        source_labels: source_labels.into_iter().collect(),
        source_namespace: same(&root.source_namespace, &leaf.source_namespace)?,
        gateways,
        ignore_uri_case: root.ignore_uri_case || leaf.ignore_uri_case,
        stat_prefix: match leaf.stat_prefix.as_str() {
            "" => root.stat_prefix.clone(),
            own => own.to_owned(),
        },
    })
}

fn merged_maps(
    root: &BTreeMap<String, StringMatch>,
    leaf: &BTreeMap<String, StringMatch>,
) -> Option<BTreeMap<String, StringMatch>> {
    let agree =
        |(key, leaf): (&String, &StringMatch)| root.get(key).is_none_or(|root| narrows(root, leaf));
    let mut merged = root.clone();
    merged.extend(leaf.clone());
    leaf.iter().all(agree).then_some(merged)
}

/// Whether all that a delegate matches is matched by its root too. Of regular expressions nobody can tell.
fn narrows(root: &StringMatch, leaf: &StringMatch) -> bool {
    use StringMatch::{Exact, Prefix, Present, Regex};
    match (root, leaf) {
        (Present, _) => true,
        (Exact(root), Exact(leaf)) => root == leaf,
        (Prefix(root), Exact(leaf) | Prefix(leaf)) => leaf.starts_with(root.as_str()),
        (Regex(root), Regex(leaf)) => root == leaf,
        _ => false,
    }
}
