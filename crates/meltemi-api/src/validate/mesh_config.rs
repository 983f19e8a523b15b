use meltemi_core::{Diagnostic, FieldPath, TrustDomain};

use super::{format, locality, retry};
use crate::istio::{AccessLogEncoding, MeshConfig};

const ACCESS_LOG_FORMAT: &str = "accessLogFormat";
const RETRY_POLICY: &str = "defaultHttpRetryPolicy";

impl MeshConfig {
    /// What every proxy would refuse, each with its field.
    pub fn problems(&self) -> Vec<Diagnostic> {
        let mut all = access_log_problems(self);
        all.extend(retry_problems(self));
        all.extend(alias_problems(self));
        all.extend(locality_problems(self));
        all.extend(self.provider_problems());
        all
    }

    /// Replaces fields that have problems by those of the last configuration: a typing error there must not stop the
    /// rest, and a proxy that is told of it would refuse every listener.
    pub fn keep_sound(&mut self, last: &Self) {
        if !access_log_problems(self).is_empty() {
            self.access_log_format.clone_from(&last.access_log_format);
            self.access_log_encoding = last.access_log_encoding;
        }
        if !retry_problems(self).is_empty() {
            let policy = &last.default_http_retry_policy;
            self.default_http_retry_policy.clone_from(policy);
        }
        if !locality_problems(self).is_empty() {
            let setting = &last.locality_lb_setting;
            self.locality_lb_setting.clone_from(setting);
        }
        self.keep_sound_providers(last);
    }
}

fn locality_problems(config: &MeshConfig) -> Vec<Diagnostic> {
    locality::problems(
        &config.locality_lb_setting,
        &FieldPath::new("localityLbSetting"),
    )
}

/// Policies take an alias for the mesh's own name. A certificate of that name is another matter: no proxy is told of the
/// authorities of others.
fn alias_problems(config: &MeshConfig) -> Vec<Diagnostic> {
    let field = FieldPath::new("trustDomainAliases");
    let mut found = Vec::new();
    for (index, alias) in config.trust_domain_aliases.iter().enumerate() {
        if TrustDomain::new(alias).is_err() {
            let message = format!("\"{alias}\" is no trust domain");
            let hint = "write lower-case letters, digits, dots and dashes";
            found.push(problem(&field.index(index), message, hint));
        }
    }
    if !config.trust_domain_aliases.is_empty() {
        let message = "policies heed the aliases, but proxies still refuse certificates of another trust domain";
        let hint = "use them while policies name an older trust domain of this mesh";
        found.push(
            Diagnostic::warning("MEL0012", message)
                .field(field)
                .hint(hint),
        );
    }
    found
}

fn problem(field: &FieldPath, message: impl Into<String>, hint: impl Into<String>) -> Diagnostic {
    Diagnostic::error("IST0106", message)
        .field(field.clone())
        .hint(hint)
}

fn retry_problems(config: &MeshConfig) -> Vec<Diagnostic> {
    let policy = config.default_http_retry_policy.as_ref();
    let field = FieldPath::new(RETRY_POLICY).field("retryOn");
    let found = policy.map(|policy| retry::problems(&policy.retry_on));
    let found = found.into_iter().flatten();
    found
        .map(|(message, hint)| problem(&field, message, hint))
        .collect()
}

fn access_log_problems(config: &MeshConfig) -> Vec<Diagnostic> {
    const EXAMPLE: &str = "write fields: {\"path\": \"%REQ(:PATH)%\"}, or accessLogEncoding: TEXT";
    let field = FieldPath::new(ACCESS_LOG_FORMAT);
    let text = config.access_log_format.as_str();
    if config.access_log_encoding == AccessLogEncoding::Text || text.is_empty() {
        return text_problem(&field, text).into_iter().collect();
    }
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => {
            let mut found = Vec::new();
            json_problems(&field, &value, &mut found);
            found
        }
        Ok(_) => {
            let message = "with accessLogEncoding JSON the format is an object";
            vec![problem(&field, message, EXAMPLE)]
        }
        Err(error) => {
            let message = format!("with accessLogEncoding JSON the format is an object: {error}");
            vec![problem(&field, message, EXAMPLE)]
        }
    }
}

fn text_problem(field: &FieldPath, text: &str) -> Option<Diagnostic> {
    format::problem(text).map(|found| problem(field, found.message, found.hint))
}

/// Texts at any depth hold operators; numbers and the like stay as they are.
fn json_problems(field: &FieldPath, value: &serde_json::Value, found: &mut Vec<Diagnostic>) {
    match value {
        serde_json::Value::String(text) => found.extend(text_problem(field, text)),
        serde_json::Value::Array(items) => {
            let items = items.iter();
            items.for_each(|item| json_problems(field, item, found));
        }
        serde_json::Value::Object(fields) => {
            let values = fields.values();
            values.for_each(|value| json_problems(field, value, found));
        }
        _ => {}
    }
}
