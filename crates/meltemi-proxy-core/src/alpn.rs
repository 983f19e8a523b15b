//! Which ALPN values an upstream handshake offers (Istio's `istio.alpn`).

use std::sync::Arc;

use crate::runtime::{AlpnOverrides, AlpnProtocol, UpstreamTls};

/// The override for the protocol of the request, else what the cluster's TLS settings say. An override only replaces a list
/// with `istio` in it, so that servers outside of the mesh are offered what their cluster says.
pub fn for_upstream<'a>(
    overrides: Option<&'a AlpnOverrides>,
    protocol: AlpnProtocol,
    tls: &'a UpstreamTls,
) -> &'a Arc<[Arc<str>]> {
    let replaced = overrides.and_then(|overrides| {
        let found = overrides
            .overrides
            .iter()
            .find(|(candidate, _)| *candidate == protocol);
        found.map(|(_, alpn)| alpn)
    });
    match replaced {
        Some(alpn)
            if tls
                .alpn
                .iter()
                .any(|value| &**value == meltemi_core::names::alpn::ISTIO) =>
        {
            alpn
        }
        _ => &tls.alpn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{TlsVersion, TlsVersions};

    fn tls(alpn: &[&str]) -> UpstreamTls {
        UpstreamTls {
            certificate: None,
            validation: None,
            sni: None,
            auto_host_sni: false,
            auto_sni_san_validation: false,
            alpn: list(alpn),
            versions: TlsVersions {
                min: TlsVersion::V1_2,
                max: TlsVersion::V1_3,
            },
            cipher_suites: Arc::new([]),
            max_session_keys: 1,
        }
    }

    fn list(values: &[&str]) -> Arc<[Arc<str>]> {
        values.iter().map(|value| (*value).into()).collect()
    }

    #[test]
    fn the_mesh_alpn_follows_the_request() {
        let overrides = AlpnOverrides {
            overrides: vec![(
                AlpnProtocol::Http11,
                list(&["istio-http/1.1", "istio", "http/1.1"]),
            )],
        };
        let mesh = tls(&["istio-peer-exchange", "istio"]);
        assert_eq!(
            &*for_upstream(Some(&overrides), AlpnProtocol::Http11, &mesh)[0],
            "istio-http/1.1"
        );
        assert_eq!(
            &*for_upstream(Some(&overrides), AlpnProtocol::Http2, &mesh)[0],
            "istio-peer-exchange"
        );
        let external = tls(&["h2", "http/1.1"]);
        assert_eq!(
            &*for_upstream(Some(&overrides), AlpnProtocol::Http11, &external)[0],
            "h2"
        );
        assert_eq!(for_upstream(None, AlpnProtocol::Http11, &mesh), &mesh.alpn);
    }
}
