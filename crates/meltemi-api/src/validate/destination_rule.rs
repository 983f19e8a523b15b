use meltemi_core::{Diagnostic, FieldPath};

use super::{Check, is_dns_label, locality, repeated};
use crate::istio::{
    ClientTlsMode, ClientTlsSettings, ConnectionPool, ConsistentHash, DestinationRule, HashKey,
    HttpSettings, LoadBalancer, OutlierDetection, Subset, TcpSettings, TrafficPolicy,
};

/// The largest table of Maglev, and the largest ring.
const MAGLEV_LIMIT: u64 = 5_000_011;
const RING_LIMIT: u64 = 8 << 20;

pub(super) fn check(rule: &DestinationRule, spec: &FieldPath, check: &mut Check<'_>) {
    check.host(&spec.field("host"), &rule.host);
    check.export_to(&spec.field("exportTo"), &rule.export_to);
    if let Some(selector) = &rule.workload_selector {
        let field = spec.field("workloadSelector").field("matchLabels");
        check.selector(&field, &selector.match_labels);
    }
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(policy, &spec.field("trafficPolicy"), check);
    }
    let subsets = spec.field("subsets");
    for (index, subset) in rule.subsets.iter().enumerate() {
        check_subset(subset, &subsets.index(index), check);
    }
    for index in repeated(rule.subsets.iter().map(|subset| &subset.name)) {
        let name = rule.subsets.get(index).map_or("", |subset| &subset.name);
        let message = format!("subset \"{name}\" is defined twice");
        check.error(&subsets.index(index).field("name"), message);
    }
}

fn check_subset(subset: &Subset, path: &FieldPath, check: &mut Check<'_>) {
    let name = path.field("name");
    if subset.name.is_empty() {
        check.error(&name, "a subset needs a name");
    } else if !is_dns_label(&subset.name) {
        let message = format!(
            "\"{}\" is not a name of lower-case letters, digits and dashes",
            subset.name
        );
        check.error(&name, message);
    }
    if let Some(policy) = &subset.traffic_policy {
        traffic_policy(policy, &path.field("trafficPolicy"), check);
    }
}

fn traffic_policy(policy: &TrafficPolicy, path: &FieldPath, check: &mut Check<'_>) {
    blocks(
        path,
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        check,
    );
    let ports = path.field("portLevelSettings");
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        let path = ports.index(index);
        match settings.port {
            Some(port) => check.port(&path.field("port").field("number"), port.number),
            None => check.error(&path.field("port"), "port.number is required"),
        }
        blocks(
            &path,
            settings.load_balancer.as_ref(),
            settings.connection_pool.as_ref(),
            settings.outlier_detection.as_ref(),
            settings.tls.as_ref(),
            check,
        );
    }
    let numbers = policy
        .port_level_settings
        .iter()
        .map(|settings| settings.port.map(|port| port.number));
    for index in repeated(numbers) {
        check.error(
            &ports.index(index).field("port"),
            "the port has settings already",
        );
    }
}

fn blocks(
    path: &FieldPath,
    load_balancer: Option<&LoadBalancer>,
    pool: Option<&ConnectionPool>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    check: &mut Check<'_>,
) {
    if let Some(settings) = load_balancer {
        let path = path.field("loadBalancer");
        check_load_balancer(settings, &path, check);
        if let Some(setting) = &settings.locality_lb_setting {
            let path = path.field("localityLbSetting");
            for problem in locality::problems(setting, &path) {
                let field = problem.field.clone();
                check.add(&field, problem);
            }
            // A subset's policy may take outlier detection from the rule's.
            let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
            if fails_over && outlier.is_none() && !path.as_str().contains("subsets[") {
                let message =
                    "has no effect without outlierDetection: nobody would tell that endpoints fail";
                let warning = Diagnostic::warning("MEL0012", message)
                    .hint("add outlierDetection, such as {consecutive5xxErrors: 5}");
                check.add(&path, warning);
            }
        }
    }
    if let Some(pool) = pool {
        check_pool(pool, &path.field("connectionPool"), check);
    }
    if let Some(settings) = outlier {
        check_outlier(settings, &path.field("outlierDetection"), check);
    }
    if let Some(settings) = tls {
        check_tls(settings, &path.field("tls"), check);
    }
}

pub(super) fn check_pool(pool: &ConnectionPool, path: &FieldPath, check: &mut Check<'_>) {
    if pool.tcp.is_none() && pool.http.is_none() {
        check.error(path, "set tcp, http or both");
    }
    if let Some(tcp) = &pool.tcp {
        check_tcp(tcp, &path.field("tcp"), check);
    }
    if let Some(http) = &pool.http {
        check_http(http, &path.field("http"), check);
    }
}

fn check_load_balancer(settings: &LoadBalancer, path: &FieldPath, check: &mut Check<'_>) {
    if settings.simple.is_some() && settings.consistent_hash.is_some() {
        check.error(path, "only one of simple and consistentHash can be set");
    }
    if let Some(hash) = &settings.consistent_hash {
        check_hash(hash, &path.field("consistentHash"), check);
    }
    if let Some(warmup) = &settings.warmup {
        let path = path.field("warmup");
        check.duration(&path.field("duration"), warmup.duration);
        check.percent(&path.field("minimumPercent"), warmup.minimum_percent);
    }
}

/// Envoy's bounds (`MaglevLbConfig.table_size`, `RingHashLbConfig.minimum_ring_size`).
fn check_hash(hash: &ConsistentHash, path: &FieldPath, check: &mut Check<'_>) {
    if let HashKey::Header(name) = &hash.key {
        check.header_name(&path.field("httpHeaderName"), name);
    }
    if let Some(size) = hash.maglev_table_size
        && (size > MAGLEV_LIMIT || !is_prime(size))
    {
        let field = path.field("maglev").field("tableSize");
        let message = format!("the size of the table is a prime up to {MAGLEV_LIMIT}, not {size}");
        let hint = match (size..=MAGLEV_LIMIT).find(|size| is_prime(*size)) {
            Some(next) => format!("the next prime is {next}; without the field it is 65537"),
            None => "without the field it is 65537".to_owned(),
        };
        check.error_hint(&field, message, hint);
    }
    if hash.minimum_ring_size.is_some_and(|size| size > RING_LIMIT) {
        let nested = path.field("ringHash").field("minimumRingSize");
        let field = match check.is_written(&nested) {
            true => nested,
            false => path.field("minimumRingSize"),
        };
        let message = format!("a ring has at most {RING_LIMIT} entries");
        check.error_hint(&field, message, "without the field it has 1024 or more");
    }
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

fn check_tcp(tcp: &TcpSettings, path: &FieldPath, check: &mut Check<'_>) {
    check.not_negative(&path.field("maxConnections"), tcp.max_connections);
    check.duration(&path.field("connectTimeout"), tcp.connect_timeout);
    check.duration(
        &path.field("maxConnectionDuration"),
        tcp.max_connection_duration,
    );
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let path = path.field("tcpKeepalive");
        check.duration(&path.field("time"), keepalive.time);
        check.duration(&path.field("interval"), keepalive.interval);
    }
}

fn check_http(http: &HttpSettings, path: &FieldPath, check: &mut Check<'_>) {
    for (field, number) in [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ] {
        check.not_negative(&path.field(field), number);
    }
    check.duration(&path.field("idleTimeout"), http.idle_timeout);
}

fn check_outlier(settings: &OutlierDetection, path: &FieldPath, check: &mut Check<'_>) {
    check.duration(&path.field("interval"), settings.interval);
    check.duration(&path.field("baseEjectionTime"), settings.base_ejection_time);
    for (field, percent) in [
        ("maxEjectionPercent", settings.max_ejection_percent),
        ("minHealthPercent", settings.min_health_percent),
    ] {
        check.percent(&path.field(field), percent.map(f64::from));
    }
    if settings.consecutive_local_origin_failures.is_some()
        && !settings.split_external_local_origin_errors
    {
        check.error(
            &path.field("consecutiveLocalOriginFailures"),
            "needs splitExternalLocalOriginErrors: true",
        );
    }
}

fn check_tls(tls: &ClientTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    match tls.mode {
        ClientTlsMode::IstioMutual => {
            for (field, value) in files {
                if !value.is_empty() {
                    check.error_hint(
                        &path.field(field),
                        "ISTIO_MUTUAL uses the workload's own certificate",
                        "remove the field, or use mode MUTUAL",
                    );
                }
            }
        }
        ClientTlsMode::Mutual => {
            let has_secret = check.is_written(&path.field("credentialName"));
            for (field, value) in files.into_iter().take(2) {
                if value.is_empty() && !has_secret {
                    check.error_hint(
                        &path.field(field),
                        "is required in mode MUTUAL",
                        "name a file that the sidecar can read, or use mode ISTIO_MUTUAL for the mesh's own certificates",
                    );
                }
            }
        }
        ClientTlsMode::Disable | ClientTlsMode::Simple => {}
    }
    if tls.insecure_skip_verify == Some(true) && !tls.ca_certificates.is_empty() {
        check.error(
            &path.field("insecureSkipVerify"),
            "cannot be set together with caCertificates",
        );
    }
}
