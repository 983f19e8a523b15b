//! What a pod's annotations ask of its sidecar.

use std::collections::BTreeMap;
use std::str::FromStr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Volume, VolumeMount};
use meltemi_api::istio::ProxyConfig;
use meltemi_core::names::port;
use meltemi_core::{Diagnostic, FieldPath};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::quantity::is_quantity;
use crate::{InjectionSettings, ProxyResources, annotation};

/// What a pod gets (`inject.istio.io/templates`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// A proxy beside the application, whose connections are captured.
    Sidecar,
    /// A proxy that is the application: nothing is captured, and it listens where Gateways say.
    Gateway,
}

/// The settings of one pod's proxy: the mesh's, changed by the pod's annotations.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) template: Template,
    pub(crate) image: String,
    pub(crate) init_image: String,
    pub(crate) resources: ProxyResources,
    pub(crate) log_level: String,
    pub(crate) component_log_level: String,
    pub(crate) agent_log_level: String,
    pub(crate) interception: Interception,
    pub(crate) native: bool,
    pub(crate) hold_application: bool,
    pub(crate) rewrite_probes: bool,
    pub(crate) merge_metrics: bool,
    pub(crate) status_port: u16,
    /// `None` when `status.sidecar.istio.io/port` is 0.
    pub(crate) readiness: Option<Readiness>,
    pub(crate) capture: Capture,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) mounts: Vec<VolumeMount>,
    pub(crate) proxy_config: ProxyConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interception {
    Redirect,
    None,
}

impl Interception {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::None => "NONE",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) initial_delay_seconds: i32,
    pub(crate) period_seconds: i32,
    pub(crate) failure_threshold: i32,
}

/// The values of `traffic.sidecar.istio.io/*`, checked but kept as the flags of `istio-iptables` take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) include_outbound_ranges: String,
    pub(crate) exclude_outbound_ranges: String,
    pub(crate) include_inbound_ports: String,
    pub(crate) exclude_inbound_ports: String,
    pub(crate) include_outbound_ports: String,
    pub(crate) exclude_outbound_ports: String,
    pub(crate) exclude_interfaces: String,
}

/// Annotations of Istio that this mesh knows and cannot do.
const UNSUPPORTED: [(&str, &str); 15] = [
    (
        "sidecar.istio.io/bootstrapOverride",
        "the proxy has no Envoy bootstrap to override",
    ),
    (
        "sidecar.istio.io/statsInclusionPrefixes",
        "all statistics are served",
    ),
    (
        "sidecar.istio.io/statsInclusionRegexps",
        "all statistics are served",
    ),
    (
        "sidecar.istio.io/statsInclusionSuffixes",
        "all statistics are served",
    ),
    ("sidecar.istio.io/extraStatTags", "use a Telemetry resource"),
    (
        "sidecar.istio.io/statsHistogramBuckets",
        "buckets are fixed",
    ),
    (
        "sidecar.istio.io/statsCompression",
        "scrapes are not compressed",
    ),
    (
        "sidecar.istio.io/statsFlushInterval",
        "statistics are current at each scrape",
    ),
    (
        "sidecar.istio.io/statsEvictionInterval",
        "statistics are not evicted",
    ),
    (
        "sidecar.istio.io/capNetBindService",
        "the proxy listens on high ports only",
    ),
    (
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        "virtual machines inside pods are not captured",
    ),
    (
        "istio.io/reroute-virtual-interfaces",
        "virtual machines inside pods are not captured",
    ),
    (
        "readiness.status.sidecar.istio.io/applicationPorts",
        "Istio ignores it too since 1.0",
    ),
    (
        "prometheus.istio.io/scrape-targets",
        "use prometheus.io/port and prometheus.io/path",
    ),
    (
        "sidecar.istio.io/discoveryAddress",
        "set discoveryAddress in proxy.istio.io/config",
    ),
];

const KNOWN: [&str; 27] = [
    "sidecar.istio.io/inject",
    "sidecar.istio.io/status",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/proxyImage",
    "sidecar.istio.io/proxyImageType",
    "sidecar.istio.io/logLevel",
    "sidecar.istio.io/componentLogLevel",
    "sidecar.istio.io/agentLogLevel",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/userVolume",
    "sidecar.istio.io/userVolumeMount",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "status.sidecar.istio.io/port",
    "readiness.status.sidecar.istio.io/initialDelaySeconds",
    "readiness.status.sidecar.istio.io/periodSeconds",
    "readiness.status.sidecar.istio.io/failureThreshold",
];

/// Reads every annotation and reports every problem: an error denies the pod, a warning does not.
pub(crate) fn read(
    annotations: &BTreeMap<String, String>,
    settings: &InjectionSettings,
) -> (Options, Vec<Diagnostic>) {
    let mut reader = Reader {
        annotations,
        diagnostics: Vec::new(),
    };
    reader.names();
    let template = reader.template();
    let options = reader.options(template, settings);
    (options, reader.diagnostics)
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    diagnostics: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn names(&mut self) {
        for name in self.annotations.keys() {
            let ours = name
                .split_once('/')
                .is_some_and(|(domain, _)| domain.ends_with("sidecar.istio.io"));
            let path = path_of(name);
            if let Some((_, instead)) = UNSUPPORTED.iter().find(|(known, _)| known == name) {
                self.diagnostics.push(
                    Diagnostic::warning("MEL0401", "annotation is not supported and has no effect")
                        .field(path)
                        .hint(*instead),
                );
            } else if ours && !KNOWN.contains(&name.as_str()) {
                let mut diagnostic =
                    Diagnostic::warning("IST0108", "unknown annotation; it has no effect")
                        .field(path);
                if let Some(near) = nearest(name, KNOWN) {
                    diagnostic = diagnostic.hint(format!("did you mean {near:?}?"));
                }
                self.diagnostics.push(diagnostic);
            }
        }
    }

    fn template(&mut self) -> Template {
        let asked = self.get(annotation::TEMPLATES).unwrap_or("sidecar");
        match asked.trim() {
            "sidecar" => Template::Sidecar,
            annotation::GATEWAY_TEMPLATE => Template::Gateway,
            _ => {
                let message = format!("injection template {asked:?} does not exist");
                self.error(
                    annotation::TEMPLATES,
                    message,
                    "the templates are \"sidecar\" and \"gateway\", one for a pod",
                );
                Template::Sidecar
            }
        }
    }

    fn options(&mut self, template: Template, settings: &InjectionSettings) -> Options {
        // A gateway's proxy is the application itself: there is none to start before, or to wait for.
        let is_sidecar = template == Template::Sidecar;
        let mut proxy_config = self.proxy_config(&settings.default_config);
        let status_port = self.number("status.sidecar.istio.io/port", None);
        if let Some(port @ 1..) = status_port {
            proxy_config.status_port = Some(port);
        }
        let image_type = self.image_type(&proxy_config);
        let own_image = self.get("sidecar.istio.io/proxyImage").map(str::to_owned);
        let typed = |image: &str| match &image_type {
            Some(kind) => format!("{image}-{kind}"),
            None => image.to_owned(),
        };
        Options {
            template,
            image: own_image
                .clone()
                .unwrap_or_else(|| typed(&settings.proxy_image)),
            init_image: own_image.unwrap_or_else(|| typed(&settings.init_image)),
            resources: self.resources(&settings.resources),
            log_level: self.word("sidecar.istio.io/logLevel", &settings.log_level),
            component_log_level: self.word(
                "sidecar.istio.io/componentLogLevel",
                &settings.component_log_level,
            ),
            agent_log_level: self.word("sidecar.istio.io/agentLogLevel", &settings.agent_log_level),
            interception: self.interception(),
            native: self.boolean("sidecar.istio.io/nativeSidecar", settings.native_sidecars)
                && is_sidecar,
            hold_application: proxy_config
                .hold_application_until_proxy_starts
                .unwrap_or(false)
                && is_sidecar,
            rewrite_probes: self.boolean(
                "sidecar.istio.io/rewriteAppHTTPProbers",
                settings.rewrite_app_http_probers,
            ),
            merge_metrics: self
                .boolean(annotation::MERGE_METRICS, settings.enable_prometheus_merge),
            status_port: proxy_config.status_port.unwrap_or(port::MERGED_STATS),
            readiness: (status_port != Some(0)).then(|| self.readiness()),
            capture: self.capture(),
            volumes: self.named_list("sidecar.istio.io/userVolume"),
            mounts: self.named_list("sidecar.istio.io/userVolumeMount"),
            proxy_config,
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    fn error(&mut self, name: &str, message: String, hint: &str) {
        self.diagnostics.push(
            Diagnostic::error("IST0125", message)
                .field(path_of(name))
                .hint(hint),
        );
    }

    /// The value that `parse` makes of an annotation; `None` when there is none, or a bad one, which is reported.
    fn parse<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(name)?.to_owned();
        let parsed = parse(&value);
        if parsed.is_none() {
            self.error(name, format!("{value:?} is not {expected}"), "");
        }
        parsed
    }

    fn boolean(&mut self, name: &str, default: bool) -> bool {
        self.parse(name, "true or false", |value| value.parse().ok())
            .unwrap_or(default)
    }

    fn number<T: FromStr>(&mut self, name: &str, default: Option<T>) -> Option<T> {
        self.parse(name, "a number in range", |value| value.parse().ok())
            .or(default)
    }

    /// A value that becomes one command-line argument.
    fn word(&mut self, name: &str, default: &str) -> String {
        let is_word = |value: &str| !value.is_empty() && !value.contains(char::is_whitespace);
        self.parse(name, "a log level", |value| {
            is_word(value).then(|| value.to_owned())
        })
        .unwrap_or_else(|| default.to_owned())
    }

    fn resources(&mut self, defaults: &ProxyResources) -> ProxyResources {
        let names = [
            "proxyCPU",
            "proxyMemory",
            "proxyCPULimit",
            "proxyMemoryLimit",
        ]
        .map(|name| format!("sidecar.istio.io/{name}"));
        // As Istio's template: one annotation replaces all four defaults.
        if !names.iter().any(|name| self.annotations.contains_key(name)) {
            return defaults.clone();
        }
        let [cpu, memory, cpu_limit, memory_limit] = names.map(|name| {
            self.parse(&name, "a quantity such as 100m or 128Mi", |value| {
                is_quantity(value).then(|| value.to_owned())
            })
        });
        ProxyResources {
            cpu,
            memory,
            cpu_limit,
            memory_limit,
        }
    }

    fn interception(&mut self) -> Interception {
        let name = "sidecar.istio.io/interceptionMode";
        match self.get(name) {
            None | Some("REDIRECT") => Interception::Redirect,
            Some("NONE") => Interception::None,
            Some("TPROXY") => {
                let message = "interception mode TPROXY is not supported".to_owned();
                self.error(
                    name,
                    message,
                    "use REDIRECT; the application sees the caller in X-Forwarded-Client-Cert",
                );
                Interception::Redirect
            }
            Some(other) => {
                let message = format!("{other:?} is not an interception mode");
                self.error(name, message, "REDIRECT or NONE");
                Interception::Redirect
            }
        }
    }

    fn readiness(&mut self) -> Readiness {
        let mut read = |name: &str, default| {
            let name = format!("readiness.status.sidecar.istio.io/{name}");
            let at_least_0 = |value: &str| value.parse().ok().filter(|n: &i32| *n >= 0);
            self.parse(&name, "a number of at least 0", at_least_0)
                .unwrap_or(default)
        };
        Readiness {
            initial_delay_seconds: read("initialDelaySeconds", 0),
            period_seconds: read("periodSeconds", 15),
            failure_threshold: read("failureThreshold", 4),
        }
    }

    fn capture(&mut self) -> Capture {
        let star = || "*".to_owned();
        let mut list = |name: &str, what: &str, ok: fn(&str) -> bool, default: String| {
            let name = format!("traffic.sidecar.istio.io/{name}");
            let all = |value: &str| {
                let mut items = value
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                items.all(ok).then(|| value.replace(' ', ""))
            };
            self.parse(&name, what, all).unwrap_or(default)
        };
        let (cidrs, ports) = (
            "a comma-separated list of CIDRs",
            "a comma-separated list of ports",
        );
        Capture {
            include_outbound_ranges: list(
                "includeOutboundIPRanges",
                cidrs,
                is_cidr_or_star,
                star(),
            ),
            exclude_outbound_ranges: list("excludeOutboundIPRanges", cidrs, is_cidr, String::new()),
            include_inbound_ports: list("includeInboundPorts", ports, is_port_or_star, star()),
            exclude_inbound_ports: list("excludeInboundPorts", ports, is_port, String::new()),
            include_outbound_ports: list("includeOutboundPorts", ports, is_port, String::new()),
            exclude_outbound_ports: list("excludeOutboundPorts", ports, is_port, String::new()),
            exclude_interfaces: list(
                "excludeInterfaces",
                "a comma-separated list of interfaces",
                |item| item.len() <= 15 && !item.contains([' ', '/']),
                String::new(),
            ),
        }
    }

    fn image_type(&mut self, config: &ProxyConfig) -> Option<String> {
        let name = "sidecar.istio.io/proxyImageType";
        let asked = self
            .get(name)
            .map(str::to_owned)
            .or_else(|| Some(config.image.as_ref()?.image_type.clone()))?;
        match asked.as_str() {
            "" | "default" => None,
            "debug" | "distroless" => Some(asked),
            other => {
                let message = format!("{other:?} is not an image type");
                self.error(name, message, "default, debug or distroless");
                None
            }
        }
    }

    /// Volumes or mounts as JSON: a list of them, or a map from name to the rest.
    fn named_list<T: DeserializeOwned>(&mut self, name: &str) -> Vec<T> {
        let Some(text) = self.get(name) else {
            return Vec::new();
        };
        match named_list(text) {
            Ok(list) => list,
            Err(error) => {
                self.error(name, format!("cannot be read: {error}"), "a JSON list");
                Vec::new()
            }
        }
    }

    /// The mesh's proxy configuration with the annotation's laid over it, maps key by key (Istio merges the protos).
    fn proxy_config(&mut self, default: &ProxyConfig) -> ProxyConfig {
        let name = annotation::PROXY_CONFIG;
        let Some(text) = self.get(name) else {
            return default.clone();
        };
        let (own, diagnostics) = meltemi_api::parse_message::<ProxyConfig>(name, text);
        self.diagnostics
            .extend(diagnostics.into_iter().map(in_annotation));
        let Some(own) = own else {
            return default.clone();
        };
        let merged = serde_json::to_value(default).and_then(|mut config| {
            merge(&mut config, serde_json::to_value(own)?);
            serde_json::from_value(config)
        });
        merged.unwrap_or_else(|error| {
            self.error(name, format!("is no ProxyConfig: {error}"), "");
            default.clone()
        })
    }
}

/// The place inside the annotation's text is of no use to a reader of the pod; the field is.
fn in_annotation(mut diagnostic: Diagnostic) -> Diagnostic {
    let field = diagnostic.field;
    if !field.is_empty() {
        diagnostic.message = format!("{field}: {}", diagnostic.message);
    }
    diagnostic.field = path_of(annotation::PROXY_CONFIG);
    diagnostic.location = None;
    diagnostic
}

fn path_of(name: &str) -> FieldPath {
    FieldPath::new("metadata.annotations").key(name)
}

fn nearest<const N: usize>(name: &str, known: [&'static str; N]) -> Option<&'static str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, candidate)| candidate)
}

fn named_list<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, serde_json::Error> {
    let list = match serde_json::from_str(text)? {
        Value::Object(map) => Value::Array(map.into_iter().map(with_name).collect()),
        other => other,
    };
    serde_json::from_value(list)
}

fn with_name((name, mut value): (String, Value)) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("name".to_owned(), Value::String(name));
    }
    value
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn is_cidr(item: &str) -> bool {
    item.parse::<IpNet>().is_ok() || item.parse::<std::net::IpAddr>().is_ok()
}

fn is_cidr_or_star(item: &str) -> bool {
    item == "*" || is_cidr(item)
}

fn is_port(item: &str) -> bool {
    item.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_port_or_star(item: &str) -> bool {
    item == "*" || is_port(item)
}

#[cfg(test)]
mod tests;
