//! Builds `x-forwarded-client-cert` (Envoy "x-forwarded-client-cert").

use crate::runtime::{ClientCertDetails, ForwardClientCert};

/// The verified certificate of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Lower-case hex SHA-256 of the leaf.
    pub hash: String,
    /// RFC 2253 subject; Istio's are empty.
    pub subject: String,
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    /// URL-encoded PEM of the leaf and of the chain, if the details ask for them.
    pub pem: String,
    pub chain_pem: String,
}

/// The header to send upstream; `None` removes it. `peer` is there only with mutual TLS, `local_uri` is our own URI SAN.
pub fn forward(
    mode: ForwardClientCert,
    details: ClientCertDetails,
    incoming: Option<&str>,
    peer: Option<&PeerCertificate>,
    local_uri: Option<&str>,
) -> Option<String> {
    let incoming = incoming
        .filter(|value| !value.is_empty())
        .map(str::to_owned);
    let own = || peer.map(|peer| element(details, peer, local_uri));
    match mode {
        ForwardClientCert::Sanitize => None,
        ForwardClientCert::AlwaysForwardOnly => incoming,
        // Without mutual TLS nothing that the client claims is passed on.
        ForwardClientCert::ForwardOnly => incoming.filter(|_| peer.is_some()),
        ForwardClientCert::SanitizeSet => own(),
        ForwardClientCert::AppendForward => match (incoming, own()) {
            (Some(incoming), Some(own)) => Some(format!("{incoming},{own}")),
            (_, own) => own,
        },
    }
}

/// `By=spiffe://server;Hash=...;Subject="";URI=spiffe://client`
fn element(details: ClientCertDetails, peer: &PeerCertificate, local_uri: Option<&str>) -> String {
    let mut pairs = Vec::new();
    if let Some(local_uri) = local_uri {
        pairs.push(format!("By={}", value(local_uri)));
    }
    pairs.push(format!("Hash={}", peer.hash));
    if details.cert {
        pairs.push(format!("Cert={}", quoted(&peer.pem)));
    }
    if details.chain {
        pairs.push(format!("Chain={}", quoted(&peer.chain_pem)));
    }
    if details.subject {
        pairs.push(format!("Subject={}", quoted(&peer.subject)));
    }
    if details.uri {
        let uris: Vec<_> = peer
            .uri_sans
            .iter()
            .map(|uri| format!("URI={}", value(uri)))
            .collect();
        pairs.push(if uris.is_empty() {
            "URI=".to_owned()
        } else {
            uris.join(";")
        });
    }
    if details.dns {
        pairs.extend(
            peer.dns_sans
                .iter()
                .map(|dns| format!("DNS={}", value(dns))),
        );
    }
    pairs.join(";")
}

/// Values with separators are quoted, so that a name cannot add pairs of its own (CVE-2023-27493).
fn value(text: &str) -> String {
    if text.contains([',', ';', '=', '"', '\\']) || text.chars().any(char::is_control) {
        quoted(text)
    } else {
        text.to_owned()
    }
}

/// A PEM text as the header carries it (Envoy, `Cert`).
pub fn url_encoded(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match c {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISTIO: ClientCertDetails = ClientCertDetails {
        subject: true,
        cert: false,
        chain: false,
        dns: true,
        uri: true,
    };

    fn peer(uri: &str) -> PeerCertificate {
        PeerCertificate {
            hash: "ab12".to_owned(),
            uri_sans: vec![uri.to_owned()],
            ..PeerCertificate::default()
        }
    }

    #[test]
    fn istios_element() {
        let peer = peer("spiffe://cluster.local/ns/default/sa/sleep");
        let expected = "By=spiffe://cluster.local/ns/default/sa/httpbin;Hash=ab12;Subject=\"\";URI=spiffe://cluster.local/ns/default/sa/sleep";
        let local = Some("spiffe://cluster.local/ns/default/sa/httpbin");
        let get = |mode, incoming| forward(mode, ISTIO, incoming, Some(&peer), local);
        assert_eq!(
            get(ForwardClientCert::AppendForward, None).as_deref(),
            Some(expected)
        );
        assert_eq!(
            get(ForwardClientCert::AppendForward, Some("By=x")),
            Some(format!("By=x,{expected}"))
        );
        assert_eq!(
            get(ForwardClientCert::SanitizeSet, Some("By=forged")).as_deref(),
            Some(expected)
        );
        assert_eq!(get(ForwardClientCert::Sanitize, Some("By=forged")), None);
        assert_eq!(
            get(ForwardClientCert::ForwardOnly, Some("By=x")).as_deref(),
            Some("By=x")
        );
    }

    #[test]
    fn plaintext_clients_pass_nothing_on() {
        for mode in [
            ForwardClientCert::Sanitize,
            ForwardClientCert::ForwardOnly,
            ForwardClientCert::AppendForward,
            ForwardClientCert::SanitizeSet,
        ] {
            assert_eq!(
                forward(mode, ISTIO, Some("URI=spiffe://forged"), None, None),
                None,
                "{mode:?}"
            );
        }
    }

    #[test]
    fn names_cannot_add_pairs() {
        let peer = PeerCertificate {
            subject: "CN=\"a\r\n\";x".to_owned(),
            ..peer("spiffe://a/ns/b;URI=spiffe://admin")
        };
        assert_eq!(
            forward(
                ForwardClientCert::SanitizeSet,
                ISTIO,
                None,
                Some(&peer),
                None
            )
            .unwrap(),
            "Hash=ab12;Subject=\"CN=\\\"a\\\";x\";URI=\"spiffe://a/ns/b;URI=spiffe://admin\""
        );
    }
}
