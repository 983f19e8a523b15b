use std::net::IpAddr;

use meltemi_core::{Diagnostic, FieldPath, Hostname};

use super::service_entry::PROTOCOLS;
use super::{Check, is_dns_label, repeated};
use crate::istio::{Gateway, GatewayPort, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

/// Protocols that a server may speak, lower-cased (Istio reference, `Port.protocol` of a Gateway, and what its parser takes).
const NOT_AT_GATEWAYS: [&str; 2] = ["udp", "hbone"];
/// Admin, metrics and readiness of the proxy (Istio, "Ports used by Istio").
const OWN_PORTS: [u32; 4] = [15000, 15020, 15021, 15090];
/// TLS 1.2 suites, by the names that Envoy gives them. Those of TLS 1.3 are not for configuration.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

pub(super) fn check(gateway: &Gateway, spec: &FieldPath, check: &mut Check<'_>) {
    check.selector(&spec.field("selector"), &gateway.selector);
    let servers = spec.field("servers");
    if gateway.servers.is_empty() {
        check.error_hint(
            &servers,
            "a gateway has at least one server",
            "add a server, such as {port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}",
        );
    }
    for (index, server) in gateway.servers.iter().enumerate() {
        check_server(server, &servers.index(index), check);
    }
    // The name is part of what the routes of a server are called.
    for index in repeated(gateway.servers.iter().map(|server| &server.port.name)) {
        let name = &gateway.servers[index].port.name;
        if !name.is_empty() {
            check.error(
                &servers.index(index).field("port").field("name"),
                format!("port names are unique in a gateway, and \"{name}\" is used before"),
            );
        }
    }
}

fn check_server(server: &Server, path: &FieldPath, check: &mut Check<'_>) {
    check_port(&server.port, &path.field("port"), check);
    if !server.bind.is_empty() && server.bind.parse::<IpAddr>().is_err() {
        check.error(
            &path.field("bind"),
            format!("\"{}\" is not an IP address to listen on", server.bind),
        );
    }
    if !server.name.is_empty() && !is_dns_label(&server.name) {
        check.error(
            &path.field("name"),
            "a name has lower-case letters, digits and dashes",
        );
    }
    check_hosts(&server.hosts, &path.field("hosts"), check);
    let tls = path.field("tls");
    let protocol = server.port.protocol.to_ascii_lowercase();
    let wants_tls = matches!(protocol.as_str(), "https" | "tls");
    match &server.tls {
        None if wants_tls => check.error_hint(
            &tls,
            format!("{} needs TLS settings", server.port.protocol),
            "add tls with a mode, and a credentialName unless it is PASSTHROUGH",
        ),
        None => {}
        Some(settings) if wants_tls => check_tls(settings, &tls, check),
        Some(settings) => {
            let only_redirects = ServerTlsSettings {
                https_redirect: settings.https_redirect,
                ..ServerTlsSettings::default()
            };
            if *settings != only_redirects {
                check.error_hint(
                    &tls,
                    format!(
                        "{} is plain text, for which tls has httpsRedirect only",
                        server.port.protocol
                    ),
                    "set port.protocol to HTTPS or TLS, or remove the other settings",
                );
            }
            if settings.https_redirect && !speaks_http(&protocol) {
                check.error(
                    &tls.field("httpsRedirect"),
                    "requests can be redirected where HTTP is spoken only",
                );
            }
        }
    }
}

fn speaks_http(protocol: &str) -> bool {
    matches!(protocol, "http" | "http2" | "grpc" | "grpc-web")
}

fn check_port(port: &GatewayPort, path: &FieldPath, check: &mut Check<'_>) {
    check.port(&path.field("number"), port.number);
    if OWN_PORTS.contains(&port.number) {
        let message = format!(
            "port {} is the gateway's own: the server is served only where its Service leads to another",
            port.number
        );
        let warning = Diagnostic::warning("MEL0012", message);
        check.add(&path.field("number"), warning);
    }
    if port.name.is_empty() {
        check.error(&path.field("name"), "a port needs a name");
    } else if !is_dns_label(&port.name) {
        check.error(
            &path.field("name"),
            "a port's name has lower-case letters, digits and dashes",
        );
    }
    let field = path.field("protocol");
    let protocol = port.protocol.to_ascii_lowercase();
    let known = || {
        PROTOCOLS
            .iter()
            .filter(|one| !NOT_AT_GATEWAYS.contains(one))
    };
    if protocol.is_empty() {
        check.error(&field, "a port needs a protocol, such as HTTP");
    } else if NOT_AT_GATEWAYS.contains(&protocol.as_str()) {
        check.error(
            &field,
            format!("{} is not served at gateways", port.protocol),
        );
    } else if known().all(|one| *one != protocol) {
        let names: Vec<&str> = known().copied().collect();
        let message = format!("unknown protocol \"{}\"", port.protocol);
        let hint = crate::suggest::hint(&protocol, &names);
        check.error_hint(&field, message, hint);
    }
}

/// `dns`, `namespace/dns`, `./dns`, `*/dns`.
fn check_hosts(hosts: &[String], path: &FieldPath, check: &mut Check<'_>) {
    if hosts.is_empty() {
        check.error_hint(
            path,
            "a server has at least one host",
            "name the hosts that clients call, or write \"*\"",
        );
    }
    for (index, host) in hosts.iter().enumerate() {
        let field = path.index(index);
        let name = match host.split_once('/') {
            None => host,
            Some((namespace, name)) => {
                if !matches!(namespace, "." | "*") && !is_dns_label(namespace) {
                    check.error(
                        &field,
                        format!("\"{namespace}\" before the slash is no namespace, \".\" or \"*\""),
                    );
                }
                name
            }
        };
        if let Err(error) = Hostname::new(name) {
            check.error(&field, error.to_string());
        }
    }
}

fn check_tls(tls: &ServerTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    let field = |name: &str| path.field(name);
    if tls.https_redirect {
        check.error(
            &field("httpsRedirect"),
            "the server speaks TLS already: redirect where HTTP is plain text",
        );
    }
    if check.is_written(&field("caCrl")) {
        // Whoever lists revoked certificates relies on their being refused.
        let message = "revoked certificates cannot be refused yet";
        let error = Diagnostic::error("MEL0005", message)
            .hint("remove caCrl, and end the trust in the authority instead");
        check.add(&field("caCrl"), error);
    }
    match tls.mode {
        ServerTlsMode::AutoPassthrough => check.add(
            &field("mode"),
            Diagnostic::warning(
                "MEL0005",
                "AUTO_PASSTHROUGH is not supported yet: the server is not served",
            ),
        ),
        ServerTlsMode::Passthrough => {}
        ServerTlsMode::IstioMutual => own_certificate(tls, path, check),
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            given_certificate(tls, path, check);
        }
    }
    check_clients(tls, path, check);
    check_versions(tls, path, check);
    for (index, suite) in tls.cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&suite.as_str()) {
            let message = format!("the cipher suite \"{suite}\" is not spoken, ignored");
            let hint = crate::suggest::hint(suite, &CIPHER_SUITES);
            let warning = Diagnostic::warning("MEL0012", message).hint(hint);
            check.add(&field("cipherSuites").index(index), warning);
        }
    }
    let spoken = |suite: &String| CIPHER_SUITES.contains(&suite.as_str());
    if !tls.cipher_suites.is_empty() && !tls.cipher_suites.iter().any(spoken) {
        check.error(&field("cipherSuites"), "none of the suites is spoken");
    }
}

fn own_certificate(tls: &ServerTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    for (name, value) in [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("credentialName", &tls.credential_name),
        ("caCertCredentialName", &tls.ca_cert_credential_name),
    ] {
        if !value.is_empty() {
            check.error(
                &path.field(name),
                "ISTIO_MUTUAL uses the gateway's own certificate",
            );
        }
    }
}

/// A Secret, or files.
fn given_certificate(tls: &ServerTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    let mode = tls.mode.as_str();
    let verifies = tls.mode.verifies_clients();
    if tls.credential_name.is_empty() {
        for (name, value, is_needed) in [
            ("serverCertificate", &tls.server_certificate, true),
            ("privateKey", &tls.private_key, true),
            (
                "caCertificates",
                &tls.ca_certificates,
                verifies && tls.ca_cert_credential_name.is_empty(),
            ),
        ] {
            if is_needed && value.is_empty() {
                check.error_hint(
                    &path.field(name),
                    format!("{mode} needs a credentialName, or the path of a file here"),
                    "set credentialName to the Secret with the certificate",
                );
            }
        }
    }
    for (name, value) in [
        ("credentialName", &tls.credential_name),
        ("caCertCredentialName", &tls.ca_cert_credential_name),
    ] {
        if value.contains('/') || value.contains(':') {
            check.error_hint(
                &path.field(name),
                "names a Secret in the namespace of the gateway's pods, without a namespace",
                "copy the Secret to that namespace",
            );
        }
    }
}

fn check_clients(tls: &ServerTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    let is_asked = tls.mode.verifies_clients() || tls.mode == ServerTlsMode::IstioMutual;
    for (name, values) in [
        ("subjectAltNames", &tls.subject_alt_names),
        ("verifyCertificateSpki", &tls.verify_certificate_spki),
        ("verifyCertificateHash", &tls.verify_certificate_hash),
    ] {
        if !values.is_empty() && !is_asked {
            check.error_hint(
                &path.field(name),
                format!("{} asks clients for no certificate", tls.mode.as_str()),
                "set mode to MUTUAL",
            );
        }
    }
    if !tls.ca_cert_credential_name.is_empty() && !tls.mode.verifies_clients() {
        check.error(
            &path.field("caCertCredentialName"),
            format!("{} verifies no clients by it", tls.mode.as_str()),
        );
    }
    let hexadecimal = |text: &String| {
        let digits: Vec<u8> = text.bytes().filter(|c| *c != b':').collect();
        digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit)
    };
    for (index, hash) in tls.verify_certificate_hash.iter().enumerate() {
        if !hexadecimal(hash) {
            check.error(
                &path.field("verifyCertificateHash").index(index),
                "a SHA-256 in 64 hexadecimal digits, with or without colons",
            );
        }
    }
    for (index, hash) in tls.verify_certificate_spki.iter().enumerate() {
        let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/');
        let digits = hash.strip_suffix('=').unwrap_or_default();
        if digits.len() != 43 || !digits.bytes().all(is_base64) {
            check.error(
                &path.field("verifyCertificateSpki").index(index),
                "a SHA-256 in base64, 44 characters",
            );
        }
    }
}

/// Older versions than 1.2 are never spoken.
fn check_versions(tls: &ServerTlsSettings, path: &FieldPath, check: &mut Check<'_>) {
    let (min, max) = (tls.min_protocol_version, tls.max_protocol_version);
    let is_old = |version| matches!(version, TlsProtocol::V1_0 | TlsProtocol::V1_1);
    let max_field = path.field("maxProtocolVersion");
    if is_old(max) {
        check.error(&max_field, "no version before TLS 1.2 is spoken");
    } else if max != TlsProtocol::Auto && min > max {
        check.error(&max_field, "is below minProtocolVersion");
    }
    if is_old(min) {
        let message = "no version before TLS 1.2 is spoken: 1.2 is the oldest";
        let warning = Diagnostic::warning("MEL0012", message);
        check.add(&path.field("minProtocolVersion"), warning);
    }
}
