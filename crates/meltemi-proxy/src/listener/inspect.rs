//! What the first bytes of a connection say: the kind of protocol by [`meltemi_proxy_core::sniff`], and for TLS the names
//! of the ClientHello, read by the TLS library.

use meltemi_proxy_core::sniff::{Http1Version, SNIFF_LIMIT_BYTES, Sniffed, sniff};

/// The names a ClientHello carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Vec<String>,
}

/// What an inspected connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Tls(ClientHello),
    Http10,
    Http11,
    Http2,
    /// Neither, or nothing was said in time.
    Opaque,
}

/// A step of the inspection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Decided(Spoken),
    NeedMore,
    /// It began as TLS and then was not: never to be treated as plain text.
    Broken,
}

/// Decides what `bytes`, the beginning of a connection, are.
pub(crate) fn inspect(bytes: &[u8], want_tls: bool, want_http: bool) -> Verdict {
    match sniff(bytes) {
        Sniffed::NeedMore if !want_http && bytes.first().is_some_and(|first| *first != 0x16) => {
            Verdict::Decided(Spoken::Opaque)
        }
        Sniffed::NeedMore => Verdict::NeedMore,
        Sniffed::Tls if want_tls => inspect_tls(bytes),
        Sniffed::Http1(Http1Version::Http10) if want_http => Verdict::Decided(Spoken::Http10),
        Sniffed::Http1(Http1Version::Http11) if want_http => Verdict::Decided(Spoken::Http11),
        Sniffed::Http2 if want_http => Verdict::Decided(Spoken::Http2),
        _ => Verdict::Decided(Spoken::Opaque),
    }
}

/// Parses a ClientHello, however it is cut into records (RFC 8446 section 5.1).
fn inspect_tls(bytes: &[u8]) -> Verdict {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Verdict::Broken,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let alpn = hello.alpn().into_iter().flatten();
                return Verdict::Decided(Spoken::Tls(ClientHello {
                    server_name: hello.server_name().map(str::to_ascii_lowercase),
                    alpn: alpn
                        .map(|p| String::from_utf8_lossy(p).into_owned())
                        .collect(),
                }));
            }
            Ok(None) => {}
            Err(_) => return Verdict::Broken,
        }
    }
    if bytes.len() >= SNIFF_LIMIT_BYTES {
        Verdict::Broken
    } else {
        Verdict::NeedMore
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Verdict) {
        assert_eq!(
            inspect(bytes, true, true),
            expected,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }

    #[test]
    fn only_what_is_wanted_is_waited_for() {
        check(b"GET / HTTP/1.0\r\n", Verdict::Decided(Spoken::Http10));
        check(b"GET /", Verdict::NeedMore);
        assert_eq!(
            inspect(b"GET /", true, false),
            Verdict::Decided(Spoken::Opaque)
        );
        assert_eq!(
            inspect(b"PRI * HT", true, false),
            Verdict::Decided(Spoken::Opaque)
        );
        assert_eq!(
            inspect(b"\x16\x03\x01", false, true),
            Verdict::Decided(Spoken::Opaque)
        );
    }

    #[test]
    fn broken_tls_is_never_plain() {
        check(b"\x16", Verdict::NeedMore);
        check(b"\x16\x03\x01\x00\x05hello", Verdict::Broken);
        check(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", Verdict::Broken);
    }

    #[test]
    fn reads_names_of_a_client_hello_cut_into_bytes() {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"istio-http/1.1".to_vec(), b"istio".to_vec()];
        let name = "outbound_.9080_._.reviews.default.svc.cluster.local"
            .try_into()
            .unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        for cut in 1..hello.len() {
            assert_eq!(inspect(&hello[..cut], true, true), Verdict::NeedMore);
        }
        check(
            &hello,
            Verdict::Decided(Spoken::Tls(ClientHello {
                server_name: Some("outbound_.9080_._.reviews.default.svc.cluster.local".to_owned()),
                alpn: vec!["istio-http/1.1".to_owned(), "istio".to_owned()],
            })),
        );
    }
}
