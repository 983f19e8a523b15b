//! Messages generated from the `.proto` files in `proto/`.

#![allow(
    missing_debug_implementations,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

/// Istio's certificate service, `istio.v1.auth.IstioCertificateService`, client and server.
pub mod istio {
    pub mod v1 {
        pub mod auth {
            include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
        }
    }
}

/// The HTTP filter `istio.metadata_exchange`.
pub mod peer_metadata {
    include!(concat!(env!("OUT_DIR"), "/io.istio.http.peer_metadata.rs"));
}

/// The filter `istio.stats`.
pub mod stats {
    include!(concat!(env!("OUT_DIR"), "/stats.rs"));
}

/// The HTTP filter `istio.alpn`.
pub mod alpn {
    include!(concat!(
        env!("OUT_DIR"),
        "/istio.envoy.config.filter.http.alpn.v2alpha1.rs"
    ));
}

/// The network filter `istio.metadata_exchange`.
pub mod metadata_exchange {
    include!(concat!(
        env!("OUT_DIR"),
        "/envoy.tcp.metadataexchange.config.rs"
    ));
}

/// A message given as JSON, under its two names.
pub mod typed_struct {
    /// `xds.type.v3.TypedStruct`
    pub mod xds {
        include!(concat!(env!("OUT_DIR"), "/xds.r#type.v3.rs"));
    }
    /// `udpa.type.v1.TypedStruct`
    pub mod udpa {
        include!(concat!(env!("OUT_DIR"), "/udpa.r#type.v1.rs"));
    }
}
