//! What Istio's definitions demand of an object beyond the form of its fields: by the name of the type that is decoded.
//!
//! Bounds are theirs also because the API server wants to know how long a CEL rule may run.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use meltemi_api::Kind;

/// The types that [`apply`] has rules for.
#[cfg(test)]
pub(super) const TYPES: &[&str] = &[
    "AbortFields",
    "AuthorizationPolicy",
    "AuthorizationRule",
    "BackendUtilization",
    "ClaimToHeader",
    "ClientTlsSettings",
    "Condition",
    "ConsistentHashFields",
    "CookieAttribute",
    "CorsPolicy",
    "Delay",
    "Destination",
    "DestinationRule",
    "DirectResponse",
    "DirectResponseBody",
    "EgressListener",
    "GatewayPort",
    "HttpCookie",
    "HttpRoute",
    "IngressListener",
    "JwtHeader",
    "JwtRule",
    "LabelSelector",
    "LoadBalancer",
    "LocalityLbSetting",
    "Mirror",
    "OutlierDetection",
    "PeerAuthentication",
    "PolicyTargetReference",
    "PortTrafficPolicy",
    "Redirect",
    "RequestAuthentication",
    "Retries",
    "RetryBudget",
    "RouteDestination",
    "Server",
    "ServerTlsSettings",
    "ServiceEntry",
    "ServicePort",
    "Source",
    "StringMatchFields",
    "Subset",
    "TargetRef",
    "TcpRoute",
    "TcpSettings",
    "TlsMatch",
    "TlsRoute",
    "TrafficPolicy",
    "Tunnel",
    "Warmup",
    "WorkloadEntry",
    "WorkloadSelector",
    "ZoneAwareLbSetting",
];

pub(super) fn requires_spec(kind: Kind) -> bool {
    matches!(kind, Kind::ServiceEntry | Kind::WorkloadEntry)
}

/// Adds the rules of one type.
pub(super) fn apply(type_name: &str, object: &mut JSONSchemaProps) {
    match type_name {
        "AbortFields" => at_most_one(object, &["httpStatus", "grpcStatus", "http2Error"]),
        "AuthorizationPolicy" => authorization_policy(object),
        "AuthorizationRule" => at(object, "from", |sources| sources.max_items = Some(512)),
        "BackendUtilization" => {
            for field in [
                "weightExpirationPeriod",
                "weightStabilizationPeriod",
                "weightUpdatePeriod",
            ] {
                any_duration(object, field);
            }
        }
        "ClaimToHeader" => claim_to_header(object),
        "ClientTlsSettings" => nullable(object, &["insecureSkipVerify"]),
        "Condition" => require(object, &["key"]),
        "ConsistentHashFields" => {
            let keys = [
                "httpHeaderName",
                "httpCookie",
                "useSourceIp",
                "httpQueryParameterName",
            ];
            at_most_one(object, &keys);
            at_most_one(object, &["ringHash", "maglev"]);
        }
        "CorsPolicy" => nullable(object, &["allowCredentials"]),
        "Delay" => at_most_one(object, &["fixedDelay", "exponentialDelay"]),
        "Destination" | "DestinationRule" => require(object, &["host"]),
        "DirectResponse" => require(object, &["status"]),
        "DirectResponseBody" => at(object, "bytes", |bytes| {
            bytes.format = Some("byte".to_owned())
        }),
        "CookieAttribute" => require(object, &["name"]),
        "GatewayPort" => require(object, &["number", "protocol", "name"]),
        "EgressListener" => require(object, &["hosts"]),
        "HttpCookie" => {
            require(object, &["name"]);
            any_duration(object, "ttl");
        }
        "HttpRoute" => nullable(object, &["mirrorPercent", "mirror_percent"]),
        "IngressListener" => require(object, &["port"]),
        "JwtHeader" => {
            require(object, &["name"]);
            filled(object, "name");
        }
        "JwtRule" => jwt_rule(object),
        "LabelSelector" => selector(object, "matchLabels", Some(4096)),
        "LoadBalancer" => at_most_one(object, &["simple", "consistentHash", "backendUtilization"]),
        "LocalityLbSetting" => nullable(object, &["enabled"]),
        "Mirror" | "RouteDestination" => require(object, &["destination"]),
        "OutlierDetection" => {
            let counts = [
                "consecutive5xxErrors",
                "consecutiveGatewayErrors",
                "consecutiveLocalOriginFailures",
            ];
            nullable(object, &counts);
            at(object, "outlierDetectionHttpErrorCodes", |codes| {
                item(codes, |code| bounds(code, 100.0, Some(599.0)));
            });
        }
        "PeerAuthentication" => peer_authentication(object),
        "PolicyTargetReference" => target_reference(object),
        "PortTrafficPolicy" => {
            remove(object, "proxyProtocol");
            remove(object, "tunnel");
        }
        "Redirect" => at_most_one(object, &["port", "derivePort"]),
        "RequestAuthentication" => request_authentication(object),
        "Retries" => nullable(
            object,
            &["retryIgnorePreviousHosts", "retryRemoteLocalities"],
        ),
        "RetryBudget" => {
            nullable(object, &["percent"]);
            within(object, "percent", 0.0, Some(100.0));
            any_duration(object, "budgetInterval");
        }
        "Server" => require(object, &["port", "hosts"]),
        "ServerTlsSettings" => server_tls(object),
        "ServiceEntry" => service_entry(object),
        "ServicePort" => {
            require(object, &["number", "name"]);
            for port in ["number", "targetPort"] {
                within(object, port, 1.0, Some(65535.0));
            }
            longest(object, "name", 256);
            longest(object, "protocol", 256);
        }
        "Source" => source(object),
        "StringMatchFields" => at_most_one(object, &["exact", "prefix", "regex"]),
        "Subset" => require(object, &["name"]),
        "TargetRef" => target_ref(object),
        "TcpSettings" => any_duration(object, "idleTimeout"),
        "TlsMatch" => require(object, &["sniHosts"]),
        "TcpRoute" => no_headers(object),
        "TlsRoute" => {
            require(object, &["match"]);
            no_headers(object);
        }
        "TrafficPolicy" => at(object, "portLevelSettings", |ports| {
            ports.max_items = Some(4096)
        }),
        "Tunnel" => require(object, &["targetHost", "targetPort"]),
        "Warmup" => {
            require(object, &["duration"]);
            nullable(object, &["aggression", "minimumPercent"]);
            within(object, "aggression", 0.0, None);
            within(object, "minimumPercent", 0.0, Some(100.0));
        }
        "WorkloadEntry" => workload_entry(object),
        "WorkloadSelector" => selector(object, "labels", Some(256)),
        "ZoneAwareLbSetting" => {
            nullable(object, &["enabled", "minClusterSize"]);
            within(object, "minClusterSize", 1.0, Some(u32::MAX.into()));
        }
        _ => {}
    }
}

pub(super) fn duration() -> ValidationRule {
    rule(
        "duration(self) >= duration('1ms')",
        "a duration of at least 1ms, such as 1.5s",
    )
}

/// Demands that of some fields at most one is set, besides what is demanded already.
pub(super) fn at_most_one(object: &mut JSONSchemaProps, fields: &[&str]) {
    let set: Vec<JSONSchemaProps> = fields
        .iter()
        .map(|field| JSONSchemaProps {
            required: Some(vec![(*field).to_owned()]),
            ..JSONSchemaProps::default()
        })
        .collect();
    let none = JSONSchemaProps {
        not: Some(Box::new(JSONSchemaProps {
            any_of: Some(set.clone()),
            ..JSONSchemaProps::default()
        })),
        ..JSONSchemaProps::default()
    };
    let choice = std::iter::once(none).chain(set).collect();
    object.all_of.get_or_insert_default().push(JSONSchemaProps {
        one_of: Some(choice),
        ..JSONSchemaProps::default()
    });
}

/// Certificates come from one place.
fn server_tls(object: &mut JSONSchemaProps) {
    for (one, other) in [
        ("credentialNames", "tlsCertificates"),
        ("credentialName", "credentialNames"),
        ("credentialName", "tlsCertificates"),
    ] {
        demand(
            object,
            &format!("!(has(self.{one}) && has(self.{other}))"),
            &format!("set {one} or {other}, not both"),
        );
    }
    nullable(object, &["insecureSkipVerify"]);
    for list in ["credentialNames", "tlsCertificates"] {
        at(object, list, |list| {
            list.min_items = Some(1);
            list.max_items = Some(2);
        });
    }
}

fn authorization_policy(object: &mut JSONSchemaProps) {
    at_most_one(object, &["provider"]);
    demand(
        object,
        "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "set only one of selector, targetRef and targetRefs",
    );
    at(object, "rules", |rules| rules.max_items = Some(512));
    at(object, "targetRefs", |targets| targets.max_items = Some(16));
}

fn source(object: &mut JSONSchemaProps) {
    demand(
        object,
        "!(has(self.serviceAccounts) || has(self.notServiceAccounts)) || (!has(self.principals) && \
         !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces))",
        "serviceAccounts stand without namespaces and principals",
    );
    for field in ["serviceAccounts", "notServiceAccounts"] {
        at(object, field, |accounts| {
            accounts.max_items = Some(16);
            item(accounts, |account| account.max_length = Some(320));
        });
    }
}

fn target_reference(object: &mut JSONSchemaProps) {
    require(object, &["kind", "name"]);
    for (field, longest, least, pattern) in [
        (
            "group",
            253,
            None,
            Some("^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        ),
        (
            "kind",
            63,
            Some(1),
            Some("^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"),
        ),
        ("name", 253, Some(1), None),
    ] {
        at(object, field, |field| {
            field.max_length = Some(longest);
            field.min_length = least;
            field.pattern = pattern.map(str::to_owned);
        });
    }
    at(object, "namespace", |namespace| {
        demand(
            namespace,
            "self.size() == 0",
            "a policy is for objects of its own namespace",
        );
    });
}

fn peer_authentication(object: &mut JSONSchemaProps) {
    demand(
        object,
        "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && \
         self.selector.matchLabels.size() > 0)",
        "portLevelMtls needs a selector: without one it applies to no workload",
    );
    at(object, "portLevelMtls", |ports| {
        ports.min_properties = Some(1);
        demand(
            ports,
            "self.all(port, 0 < int(port) && int(port) <= 65535)",
            "a port is a number from 1 to 65535",
        );
    });
}

fn request_authentication(object: &mut JSONSchemaProps) {
    demand(
        object,
        "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
        "set one of selector and targetRefs",
    );
    at(object, "jwtRules", |rules| rules.max_items = Some(4096));
    at(object, "targetRefs", |targets| targets.max_items = Some(16));
}

fn jwt_rule(object: &mut JSONSchemaProps) {
    demand(
        object,
        "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
        "set jwks or jwksUri, not both",
    );
    filled(object, "issuer");
    for uri in ["jwksUri", "jwks_uri"] {
        longest(object, uri, 2048);
        filled(object, uri);
        at(object, uri, |uri| {
            demand(
                uri,
                "url(self).getScheme() in ['http', 'https']",
                "a URL that begins with http:// or https://",
            );
        });
    }
    let lists = [
        "audiences",
        "fromCookies",
        "fromParams",
        "spaceDelimitedClaims",
    ];
    for list in lists {
        at(object, list, |list| {
            item(list, |word| word.min_length = Some(1))
        });
    }
    at(object, "spaceDelimitedClaims", |claims| {
        claims.max_items = Some(64)
    });
}

fn claim_to_header(object: &mut JSONSchemaProps) {
    require(object, &["header", "claim"]);
    filled(object, "header");
    filled(object, "claim");
    at(object, "header", |header| {
        header.pattern = Some("^[-_A-Za-z0-9]+$".to_owned());
    });
}

fn target_ref(object: &mut JSONSchemaProps) {
    require(object, &["kind", "name"]);
    filled(object, "kind");
    filled(object, "name");
    longest(object, "group", 253);
    longest(object, "kind", 63);
    longest(object, "name", 253);
    at(object, "namespace", |namespace| {
        demand(
            namespace,
            "self.size() == 0",
            "the target is in the namespace of the object",
        );
    });
}

fn service_entry(object: &mut JSONSchemaProps) {
    require(object, &["hosts"]);
    let rules = [
        (
            "!(has(self.workloadSelector) && has(self.endpoints))",
            "set workloadSelector or endpoints, not both",
        ),
        (
            "!has(self.addresses) || !self.addresses.exists(address, address.contains('/')) || \
             !has(self.resolution) || self.resolution in ['STATIC', 'NONE']",
            "address ranges need the resolution NONE or STATIC",
        ),
        (
            "(has(self.resolution) && self.resolution != 'NONE') || !has(self.endpoints)",
            "endpoints need a resolution besides NONE",
        ),
        (
            "!has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN' || !has(self.endpoints) || \
             self.endpoints.size() <= 1",
            "the resolution DNS_ROUND_ROBIN takes one endpoint",
        ),
    ];
    for (expression, message) in rules {
        demand(object, expression, message);
    }
    at(object, "addresses", |addresses| {
        addresses.max_items = Some(256);
        item(addresses, |address| address.max_length = Some(64));
    });
    at(object, "endpoints", |endpoints| {
        endpoints.max_items = Some(4096)
    });
    at(object, "hosts", |hosts| {
        hosts.min_items = Some(1);
        hosts.max_items = Some(256);
        item(hosts, |host| {
            demand(
                host,
                "self != '*'",
                "a host cannot be * alone: name a domain",
            );
        });
    });
    at(object, "ports", |ports| {
        ports.max_items = Some(256);
        ports.x_kubernetes_list_type = Some("map".to_owned());
        ports.x_kubernetes_list_map_keys = Some(vec!["name".to_owned()]);
        demand(
            ports,
            "self.all(one, self.exists_one(other, one.number == other.number))",
            "each port has a number of its own",
        );
    });
}

fn workload_entry(object: &mut JSONSchemaProps) {
    demand(
        object,
        "has(self.address) || has(self.network)",
        "set the address, or the network that the workload is in",
    );
    demand(
        object,
        "!has(self.address) || !self.address.startsWith('unix://') || !has(self.ports)",
        "a Unix socket has no ports",
    );
    at(object, "address", |address| {
        address.max_length = Some(256);
        demand(
            address,
            "!self.startsWith('unix://') || self.startsWith('unix:///') || self.startsWith('unix://@')",
            "a Unix socket is an absolute path, or an abstract name after @",
        );
        demand(
            address,
            "!self.startsWith('unix://') || !self.endsWith('/')",
            "a Unix socket is no folder",
        );
    });
    at(object, "labels", |labels| labels.max_properties = Some(256));
    longest(object, "locality", 2048);
    longest(object, "network", 2048);
    longest(object, "serviceAccount", 253);
    at(object, "ports", |ports| {
        ports.max_properties = Some(128);
        demand(
            ports,
            "self.all(name, size(name) < 63 && name.matches('^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$'))",
            "a port's name has letters, digits and - inside, at most 62 of them",
        );
        value(ports, |port| bounds(port, 1.0, Some(65535.0)));
    });
}

/// Where no request is looked into there is no header to change.
fn no_headers(route: &mut JSONSchemaProps) {
    at(route, "route", |destinations| {
        item(destinations, |destination| {
            remove(destination, "headers");
        });
    });
}

/// Labels that are compared for equality: a `*` in them would be a mistake.
fn selector(object: &mut JSONSchemaProps, field: &str, largest: Option<i64>) {
    let has_key_rules = field == "matchLabels";
    at(object, field, |labels| {
        labels.max_properties = largest;
        if has_key_rules {
            demand(
                labels,
                "self.all(key, !key.contains('*'))",
                "labels are compared as they are: no * in a key",
            );
            demand(
                labels,
                "self.all(key, key.size() != 0)",
                "a label's key is not empty",
            );
        }
        value(labels, |label| {
            label.max_length = Some(63);
            demand(
                label,
                "!self.contains('*')",
                "labels are compared as they are: no * in a value",
            );
        });
    });
}

/// Takes away a field that the type has for another place's sake.
fn remove(object: &mut JSONSchemaProps, field: &str) {
    if let Some(fields) = &mut object.properties {
        fields.remove(field);
    }
}

fn rule(expression: &str, message: &str) -> ValidationRule {
    ValidationRule {
        rule: expression.to_owned(),
        message: Some(message.to_owned()),
        ..ValidationRule::default()
    }
}

fn demand(schema: &mut JSONSchemaProps, expression: &str, message: &str) {
    let rules = schema.x_kubernetes_validations.get_or_insert_default();
    rules.push(rule(expression, message));
}

fn at(object: &mut JSONSchemaProps, field: &str, change: impl FnOnce(&mut JSONSchemaProps)) {
    let fields = object.properties.as_mut();
    if let Some(field) = fields.and_then(|fields| fields.get_mut(field)) {
        change(field);
    }
}

fn item(list: &mut JSONSchemaProps, change: impl FnOnce(&mut JSONSchemaProps)) {
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut list.items {
        change(item);
    }
}

fn value(map: &mut JSONSchemaProps, change: impl FnOnce(&mut JSONSchemaProps)) {
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut map.additional_properties {
        change(value);
    }
}

fn require(object: &mut JSONSchemaProps, fields: &[&str]) {
    object.required = Some(fields.iter().map(ToString::to_string).collect());
}

/// Fields that are wrapped in Istio's API, so that `null` says "not set".
fn nullable(object: &mut JSONSchemaProps, fields: &[&str]) {
    for field in fields {
        at(object, field, |field| field.nullable = Some(true));
    }
}

fn within(object: &mut JSONSchemaProps, field: &str, least: f64, largest: Option<f64>) {
    at(object, field, |field| bounds(field, least, largest));
}

fn bounds(number: &mut JSONSchemaProps, least: f64, largest: Option<f64>) {
    number.minimum = Some(least);
    number.maximum = largest;
}

fn longest(object: &mut JSONSchemaProps, field: &str, length: i64) {
    at(object, field, |field| field.max_length = Some(length));
}

fn filled(object: &mut JSONSchemaProps, field: &str) {
    at(object, field, |field| field.min_length = Some(1));
}

/// Zero is a value too.
fn any_duration(object: &mut JSONSchemaProps, field: &str) {
    at(object, field, |field| field.x_kubernetes_validations = None);
}
