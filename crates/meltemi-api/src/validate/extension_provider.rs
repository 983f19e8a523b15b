//! Providers of MeshConfig, and the one that a CUSTOM policy names.

use std::time::Duration;

use meltemi_core::{Diagnostic, FieldPath, Hostname};

use super::{format, is_dns_label, is_header_name};
use crate::did_you_mean;
use crate::istio::{
    AuthorizerProvider, CheckedRequestBody, ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider,
    MeshConfig,
};

const LIST: &str = "extensionProviders";

/// The codes of Envoy's `type.v3.StatusCode` that end a request.
const STATUSES: &[u16] = &[
    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400,
    401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422,
    423, 424, 426, 428, 429, 431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

impl ExtensionProvider {
    /// What it asks, if it is an authorizer.
    pub fn authorizer(&self) -> Option<AuthorizerProvider<'_>> {
        let http = self.envoy_ext_authz_http.as_ref();
        let grpc = self.envoy_ext_authz_grpc.as_ref();
        http.map(AuthorizerProvider::Http)
            .or_else(|| grpc.map(AuthorizerProvider::Grpc))
    }

    fn problems(&self, path: &FieldPath) -> Vec<Diagnostic> {
        let mut found = Problems(Vec::new());
        if self.name.is_empty() {
            let message = "a provider needs a name";
            found.add(&path.field("name"), message, "name it as policies do");
        }
        if let Some(http) = &self.envoy_ext_authz_http {
            found.http(http, &path.field("envoyExtAuthzHttp"));
        }
        if let Some(grpc) = &self.envoy_ext_authz_grpc {
            found.grpc(grpc, &path.field("envoyExtAuthzGrpc"));
        }
        if self.envoy_ext_authz_http.is_some() && self.envoy_ext_authz_grpc.is_some() {
            let message = "a provider is of one kind";
            found.add(path, message, "make two providers of it");
        }
        found.0
    }
}

impl MeshConfig {
    /// The authorizer that a CUSTOM policy names.
    ///
    /// # Errors
    /// Why there is none, and how to mend it. Whatever such a policy selects is denied.
    pub fn authorizer(&self, name: &str) -> Result<AuthorizerProvider<'_>, (String, String)> {
        let named = self.extension_providers.iter().enumerate();
        let mut named = named.filter(|(_, provider)| provider.name == name);
        let Some((index, provider)) = named.next() else {
            let known = self.extension_providers.iter();
            let known: Vec<&str> = known.map(|provider| provider.name.as_str()).collect();
            let near = did_you_mean(name, known.iter().copied());
            let message = format!("meshConfig.{LIST} has no provider \"{name}\"");
            let hint = match (near, known.is_empty()) {
                (Some(near), _) => format!("did you mean \"{near}\"?"),
                (None, true) => format!("define it in meshConfig.{LIST}, which is empty"),
                (None, false) => format!("define it there, or name one of: {}", known.join(", ")),
            };
            return Err((message, hint));
        };
        if named.next().is_some() {
            let message = format!("meshConfig.{LIST} has several providers \"{name}\"");
            return Err((message, "give each a name of its own".to_owned()));
        }
        let path = FieldPath::new(LIST).index(index);
        let Some(authorizer) = provider.authorizer() else {
            let message = format!("the provider \"{name}\" of meshConfig is no authorizer");
            let hint = "name one with envoyExtAuthzHttp or envoyExtAuthzGrpc";
            return Err((message, hint.to_owned()));
        };
        match provider.problems(&path).into_iter().next() {
            None => Ok(authorizer),
            Some(problem) => {
                let message = format!("meshConfig.{}: {}", problem.field, problem.message);
                Err((message, problem.hint))
            }
        }
    }

    pub(super) fn provider_problems(&self) -> Vec<Diagnostic> {
        let list = FieldPath::new(LIST);
        let mut found = Vec::new();
        for (index, provider) in self.extension_providers.iter().enumerate() {
            let path = list.index(index);
            found.extend(provider.problems(&path));
            let mut before = self.extension_providers.iter().take(index);
            if !provider.name.is_empty() && before.any(|other| other.name == provider.name) {
                let message = format!(
                    "\"{}\" names a provider above: a policy that names it denies what it selects",
                    provider.name
                );
                let hint = "give each a name of its own";
                found.push(problem(&path.field("name"), message, hint));
            }
        }
        found
    }

    /// Replaces providers with problems by those of their name in the last configuration, if these had none.
    pub(super) fn keep_sound_providers(&mut self, last: &Self) {
        let anywhere = FieldPath::default();
        let is_sound = |provider: &ExtensionProvider| provider.problems(&anywhere).is_empty();
        for provider in &mut self.extension_providers {
            if is_sound(provider) {
                continue;
            }
            let mut before = last.extension_providers.iter();
            if let Some(sound) = before.find(|one| one.name == provider.name && is_sound(one)) {
                provider.clone_from(sound);
            }
        }
    }
}

fn problem(field: &FieldPath, message: impl Into<String>, hint: impl Into<String>) -> Diagnostic {
    Diagnostic::error("IST0106", message)
        .field(field.clone())
        .hint(hint)
}

struct Problems(Vec<Diagnostic>);

impl Problems {
    fn add(&mut self, field: &FieldPath, message: impl Into<String>, hint: impl Into<String>) {
        self.0.push(problem(field, message, hint));
    }

    fn http(&mut self, http: &ExtAuthzHttp, path: &FieldPath) {
        self.service(&http.service, &path.field("service"));
        self.port(http.port, &path.field("port"));
        self.timeout(http.timeout, &path.field("timeout"));
        self.status(&http.status_on_error, &path.field("statusOnError"));
        self.body(http.include_request_body_in_check, path);
        let prefix = &http.path_prefix;
        let is_path = prefix.is_empty()
            || (prefix.starts_with('/') && prefix.bytes().all(|c| c.is_ascii_graphic()));
        if !is_path || prefix.contains(['?', '#']) {
            let message = format!("\"{prefix}\" is no beginning of a path");
            self.add(&path.field("pathPrefix"), message, "write /check");
        }
        for (name, headers) in [
            (
                "includeRequestHeadersInCheck",
                &http.include_request_headers_in_check,
            ),
            ("includeHeadersInCheck", &http.include_headers_in_check),
            (
                "headersToUpstreamOnAllow",
                &http.headers_to_upstream_on_allow,
            ),
            (
                "headersToDownstreamOnAllow",
                &http.headers_to_downstream_on_allow,
            ),
            (
                "headersToDownstreamOnDeny",
                &http.headers_to_downstream_on_deny,
            ),
        ] {
            let field = path.field(name);
            for (index, header) in headers.iter().enumerate() {
                self.header_pattern(header, &field.index(index));
            }
        }
        let field = path.field("includeAdditionalHeadersInCheck");
        for (name, value) in &http.include_additional_headers_in_check {
            let field = field.key(name);
            if !is_header_name(name) {
                let hint = "a name has letters, digits and !#$%&'*+-.^_`|~";
                self.add(&field, format!("\"{name}\" is no name of a header"), hint);
            }
            if value.bytes().any(|c| c.is_ascii_control() && c != b'\t') {
                let hint = "remove line breaks and other control characters";
                let message = "the value of a header has no control characters";
                self.add(&field, message, hint);
            }
            if let Some(found) = format::problem(value) {
                self.add(&field, found.message, found.hint);
            }
        }
    }

    fn grpc(&mut self, grpc: &ExtAuthzGrpc, path: &FieldPath) {
        self.service(&grpc.service, &path.field("service"));
        self.port(grpc.port, &path.field("port"));
        self.timeout(grpc.timeout, &path.field("timeout"));
        self.status(&grpc.status_on_error, &path.field("statusOnError"));
        self.body(grpc.include_request_body_in_check, path);
    }

    fn service(&mut self, service: &str, field: &FieldPath) {
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service),
        };
        let is_host = Hostname::new(host).is_ok_and(|host| !host.as_str().contains('*'));
        if namespace.is_none_or(is_dns_label) && is_host {
            return;
        }
        let message = match service {
            "" => "an authorizer needs a service".to_owned(),
            service => format!("\"{service}\" is not <namespace>/<host> or <host>"),
        };
        self.add(field, message, "write ext-authz.foo.svc.cluster.local");
    }

    fn port(&mut self, port: u32, field: &FieldPath) {
        if !(1..=u32::from(u16::MAX)).contains(&port) {
            let hint = "write the number of a port of the service, from 1 to 65535";
            self.add(field, format!("{port} is no port"), hint);
        }
    }

    fn timeout(&mut self, timeout: Option<Duration>, field: &FieldPath) {
        if timeout.is_some_and(|timeout| timeout < Duration::from_millis(1)) {
            let hint = "write 1ms or more, or leave it out for 10 minutes";
            self.add(field, "in less than 1ms nobody answers", hint);
        }
    }

    fn status(&mut self, status: &str, field: &FieldPath) {
        let code = status.parse::<u16>();
        if status.is_empty() || code.is_ok_and(|code| STATUSES.contains(&code)) {
            return;
        }
        let message = format!("\"{status}\" is no HTTP status that ends a request");
        self.add(field, message, "write \"403\" or \"503\"");
    }

    fn body(&mut self, body: Option<CheckedRequestBody>, path: &FieldPath) {
        if body.is_some_and(|body| body.max_request_bytes == 0) {
            let field = path.field("includeRequestBodyInCheck");
            let message = "of a body of 0 bytes nothing is shown";
            let hint = "write how many bytes the authorizer is to see, such as 8192";
            self.add(&field.field("maxRequestBytes"), message, hint);
        }
    }

    /// A name with a `*` at one end or none.
    fn header_pattern(&mut self, pattern: &str, field: &FieldPath) {
        let name = pattern.strip_prefix('*');
        let name = name.or_else(|| pattern.strip_suffix('*'));
        let name = name.unwrap_or(pattern);
        if pattern == "*" {
            let message = "a `*` alone matches nothing here";
            self.add(field, message, "write the beginning or the end of names");
        } else if !is_header_name(name) || name.contains('*') {
            let message = format!("\"{pattern}\" is no name of a header");
            self.add(field, message, "write a name, x-auth-*, or *-id");
        }
    }
}

#[cfg(test)]
mod tests;
