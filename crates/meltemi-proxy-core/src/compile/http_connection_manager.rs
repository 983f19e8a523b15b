use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;

use super::Scope;
use super::access_log::access_logs;
use super::common::{duration, header_value, is_true, limit, number};
use super::filter::http_filters;
use super::route::route_configuration;
use crate::frame_budget::FrameRules;
use crate::runtime::{
    ClientCertDetails, EscapedSlashes, ForwardClientCert, Http1Options, Http2Options, HttpCodec,
    HttpConnectionManager, PathNormalisation, RouteSource, ServerHeader, StripPort, Upgrade,
};

/// Envoy's defaults.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Ours; Envoy has none.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(15);
const HEADERS_LIMIT_KIB: u32 = 60;
const HEADERS_LIMIT: u32 = 100;

pub(super) fn http_connection_manager(
    scope: &Scope<'_>,
    mut hcm: proto::HttpConnectionManager,
) -> Option<HttpConnectionManager> {
    use proto::http_connection_manager as p;
    let codec = match p::CodecType::try_from(take(&mut hcm.codec_type)) {
        Ok(p::CodecType::Auto) => HttpCodec::Auto,
        Ok(p::CodecType::Http1) => HttpCodec::Http1,
        Ok(p::CodecType::Http2) => HttpCodec::Http2,
        _ => return scope.at("codec_type").refuse("is not supported"),
    };
    let routes = route_source(scope, hcm.route_specifier.take());
    let filters = http_filters(scope, take(&mut hcm.http_filters));
    let access_log = access_logs(scope, take(&mut hcm.access_log));
    let mut common = hcm.common_http_protocol_options.take().unwrap_or_default();
    let underscores = take(&mut common.headers_with_underscores_action);
    let at = |field| scope.at(field);
    let max_request_headers_kib =
        number(hcm.max_request_headers_kb.take()).unwrap_or(HEADERS_LIMIT_KIB);
    let max_headers_count = number(common.max_headers_count.take()).unwrap_or(HEADERS_LIMIT);
    use core::http_protocol_options::HeadersWithUnderscoresAction as U;
    let compiled = HttpConnectionManager {
        stat_prefix: take(&mut hcm.stat_prefix).into(),
        codec,
        routes: routes?,
        server_name: server_name(&at("server_name"), &take(&mut hcm.server_name))?,
        server_header: server_header(
            &at("server_header_transformation"),
            take(&mut hcm.server_header_transformation),
        )?,
        use_remote_address: is_true(hcm.use_remote_address.take(), false),
        skip_xff_append: take(&mut hcm.skip_xff_append),
        xff_num_trusted_hops: take(&mut hcm.xff_num_trusted_hops),
        forward_client_cert: forward_client_cert(
            &at("forward_client_cert_details"),
            take(&mut hcm.forward_client_cert_details),
        )?,
        client_cert_details: client_cert_details(
            &at("set_current_client_cert_details"),
            hcm.set_current_client_cert_details.take(),
        ),
        stream_idle_timeout: limit(
            &at("stream_idle_timeout"),
            hcm.stream_idle_timeout.take(),
            Some(STREAM_IDLE_TIMEOUT),
        ),
        request_timeout: limit(&at("request_timeout"), hcm.request_timeout.take(), None),
        request_headers_timeout: limit(
            &at("request_headers_timeout"),
            hcm.request_headers_timeout.take(),
            Some(REQUEST_HEADERS_TIMEOUT),
        ),
        idle_timeout: limit(
            &at("common_http_protocol_options"),
            common.idle_timeout.take(),
            Some(IDLE_TIMEOUT),
        ),
        max_connection_duration: limit(
            &at("common_http_protocol_options"),
            common.max_connection_duration.take(),
            None,
        ),
        max_stream_duration: limit(
            &at("common_http_protocol_options"),
            common.max_stream_duration.take(),
            None,
        ),
        max_requests_per_connection: number(common.max_requests_per_connection.take())
            .filter(|n| *n > 0),
        delayed_close_timeout: limit(
            &at("delayed_close_timeout"),
            hcm.delayed_close_timeout.take(),
            Some(DELAYED_CLOSE_TIMEOUT),
        ),
        max_request_headers_bytes: max_request_headers_kib.saturating_mul(1024) as usize,
        max_request_headers_count: max_headers_count as usize,
        reject_underscore_headers: underscores == U::RejectRequest as i32,
        drop_underscore_headers: underscores == U::DropHeader as i32,
        upgrades: scope.each("upgrade_configs", take(&mut hcm.upgrade_configs), upgrade),
        path: path_normalisation(scope, &mut hcm)?,
        strip_port: strip_port(&mut hcm),
        strip_trailing_host_dot: take(&mut hcm.strip_trailing_host_dot),
        generate_request_id: is_true(hcm.generate_request_id.take(), true),
        preserve_external_request_id: take(&mut hcm.preserve_external_request_id),
        always_set_request_id_in_response: take(&mut hcm.always_set_request_id_in_response),
        via: match take(&mut hcm.via).as_str() {
            "" => None,
            via => Some(header_value(&at("via"), via)?),
        },
        access_log,
        http1: http1_options(
            &at("http_protocol_options"),
            hcm.http_protocol_options.take().unwrap_or_default(),
        ),
        http2: http2_options(
            &at("http2_protocol_options"),
            hcm.http2_protocol_options.take().unwrap_or_default(),
        ),
        http_filters: Vec::new(),
        router: crate::runtime::Router::default(),
    };
    scope.at("common_http_protocol_options").rest(&common);
    refuse_tracing(&at("tracing"), hcm.tracing.take());
    hcm.drain_timeout = None; // the final GOAWAY follows the first as soon as the peer has acknowledged it
    // 100-continue is always passed on; the exchange stays between the ends.
    hcm.proxy_100_continue = false;
    hcm.stream_error_on_invalid_http_message = None; // HTTP/1: close; HTTP/2: reset the stream
    hcm.internal_address_config = None; // no header is trusted for an address
    hcm.request_id_extension = None; // we make UUIDs
    scope.rest(&hcm);
    let (http_filters, router) = filters?;
    Some(HttpConnectionManager {
        http_filters,
        router,
        ..compiled
    })
}

fn route_source(
    scope: &Scope<'_>,
    source: Option<proto::http_connection_manager::RouteSpecifier>,
) -> Option<RouteSource> {
    use proto::http_connection_manager::RouteSpecifier as R;
    match source {
        Some(R::Rds(rds)) if rds.route_config_name.is_empty() => scope
            .at("rds")
            .at("route_config_name")
            .refuse("is required"),
        Some(R::Rds(rds)) => Some(RouteSource::Rds(rds.route_config_name.into())),
        Some(R::RouteConfig(config)) => route_configuration(&scope.at("route_config"), config)
            .map(|config| RouteSource::Inline(Arc::new(config))),
        Some(R::ScopedRoutes(_)) => scope.at("scoped_routes").refuse("is not supported"),
        None => scope.at("rds").refuse("is required"),
    }
}

/// Envoy calls itself `envoy`; Istio sets `istio-envoy`.
fn server_name(scope: &Scope<'_>, name: &str) -> Option<HeaderValue> {
    header_value(scope, if name.is_empty() { "envoy" } else { name })
}

fn server_header(scope: &Scope<'_>, value: i32) -> Option<ServerHeader> {
    use proto::http_connection_manager::ServerHeaderTransformation as S;
    match S::try_from(value) {
        Ok(S::Overwrite) => Some(ServerHeader::Overwrite),
        Ok(S::AppendIfAbsent) => Some(ServerHeader::AppendIfAbsent),
        Ok(S::PassThrough) => Some(ServerHeader::PassThrough),
        Err(_) => scope.refuse("is unknown"),
    }
}

fn forward_client_cert(scope: &Scope<'_>, value: i32) -> Option<ForwardClientCert> {
    use proto::http_connection_manager::ForwardClientCertDetails as F;
    match F::try_from(value) {
        Ok(F::Sanitize) => Some(ForwardClientCert::Sanitize),
        Ok(F::ForwardOnly) => Some(ForwardClientCert::ForwardOnly),
        Ok(F::AppendForward) => Some(ForwardClientCert::AppendForward),
        Ok(F::SanitizeSet) => Some(ForwardClientCert::SanitizeSet),
        Ok(F::AlwaysForwardOnly) => Some(ForwardClientCert::AlwaysForwardOnly),
        Err(_) => scope.refuse("is unknown"),
    }
}

fn client_cert_details(
    scope: &Scope<'_>,
    details: Option<proto::http_connection_manager::SetCurrentClientCertDetails>,
) -> ClientCertDetails {
    let mut details = details.unwrap_or_default();
    let compiled = ClientCertDetails {
        subject: is_true(details.subject.take(), false),
        cert: take(&mut details.cert),
        chain: take(&mut details.chain),
        dns: take(&mut details.dns),
        uri: take(&mut details.uri),
    };
    scope.rest(&details);
    compiled
}

fn upgrade(
    scope: &Scope<'_>,
    config: proto::http_connection_manager::UpgradeConfig,
) -> Option<Upgrade> {
    if !config.filters.is_empty() {
        return scope.at("filters").refuse("is not supported");
    }
    Some(Upgrade {
        kind: config.upgrade_type.to_ascii_lowercase().into(),
        enabled: is_true(config.enabled, true),
    })
}

fn path_normalisation(
    scope: &Scope<'_>,
    hcm: &mut proto::HttpConnectionManager,
) -> Option<PathNormalisation> {
    use proto::http_connection_manager::PathWithEscapedSlashesAction as A;
    let action = take(&mut hcm.path_with_escaped_slashes_action);
    let escaped_slashes = match A::try_from(action) {
        Ok(A::ImplementationSpecificDefault | A::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(A::RejectRequest) => EscapedSlashes::Reject,
        Ok(A::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(A::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => {
            return scope
                .at("path_with_escaped_slashes_action")
                .refuse("is unknown");
        }
    };
    Some(PathNormalisation {
        normalize: is_true(hcm.normalize_path.take(), false),
        merge_slashes: take(&mut hcm.merge_slashes),
        escaped_slashes,
    })
}

fn strip_port(hcm: &mut proto::HttpConnectionManager) -> StripPort {
    use proto::http_connection_manager::StripPortMode as S;
    let is_matching = take(&mut hcm.strip_matching_host_port);
    match hcm.strip_port_mode.take() {
        Some(S::StripAnyHostPort(true)) => StripPort::Any,
        _ if is_matching => StripPort::Matching,
        _ => StripPort::Keep,
    }
}

/// Without a provider nothing is traced, whatever the shares say; providers are not supported.
fn refuse_tracing(scope: &Scope<'_>, tracing: Option<proto::http_connection_manager::Tracing>) {
    if tracing.is_some_and(|tracing| tracing.provider.is_some()) {
        scope.at("provider").reject("is not supported");
    }
}

pub(super) fn http1_options(
    scope: &Scope<'_>,
    mut options: core::Http1ProtocolOptions,
) -> Http1Options {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let format = options
        .header_key_format
        .take()
        .and_then(|format| format.header_format);
    let preserve_header_case = match format {
        None => false,
        Some(HeaderFormat::StatefulFormatter(formatter)) => {
            if formatter.name != "preserve_case"
                && formatter.name != "envoy.http.stateful_header_formatters.preserve_case"
            {
                scope
                    .at("header_key_format")
                    .reject(format!("{} is not supported", formatter.name));
            }
            true
        }
        Some(HeaderFormat::ProperCaseWords(_)) => {
            scope
                .at("header_key_format")
                .reject("proper_case_words is not supported");
            false
        }
    };
    let default_host = take(&mut options.default_host_for_http_10);
    let compiled = Http1Options {
        allow_absolute_url: is_true(options.allow_absolute_url.take(), true),
        accept_http_10: take(&mut options.accept_http_10),
        default_host_for_http_10: Some(default_host)
            .filter(|host| !host.is_empty())
            .map(Into::into),
        preserve_header_case,
        enable_trailers: take(&mut options.enable_trailers),
        allow_chunked_length: take(&mut options.allow_chunked_length),
    };
    options.use_balsa_parser = None; // we have our own parser
    options.allow_custom_methods = false; // any token is a method
    options.override_stream_error_on_invalid_http_message = None;
    scope.rest(&options);
    compiled
}

pub(super) fn http2_options(
    scope: &Scope<'_>,
    mut options: core::Http2ProtocolOptions,
) -> Http2Options {
    let mut keepalive = options.connection_keepalive.take().unwrap_or_default();
    let compiled = Http2Options {
        max_concurrent_streams: number(options.max_concurrent_streams.take()),
        initial_stream_window_bytes: number(options.initial_stream_window_size.take()),
        initial_connection_window_bytes: number(options.initial_connection_window_size.take()),
        allow_connect: take(&mut options.allow_connect),
        keepalive_interval: duration(&scope.at("connection_keepalive"), keepalive.interval.take()),
        keepalive_timeout: duration(&scope.at("connection_keepalive"), keepalive.timeout.take()),
        frames: frame_rules(&mut options),
    };
    keepalive.interval_jitter = None;
    options.max_outbound_frames = None; // flow control and the stream limit bound what waits
    options.override_stream_error_on_invalid_http_message = None;
    options.use_oghttp2_codec = None;
    scope.at("connection_keepalive").rest(&keepalive);
    scope.rest(&options);
    compiled
}

fn frame_rules(options: &mut core::Http2ProtocolOptions) -> FrameRules {
    let default = FrameRules::default();
    FrameRules {
        control_frames: number(options.max_outbound_control_frames.take())
            .unwrap_or(default.control_frames),
        empty_frames: number(
            options
                .max_consecutive_inbound_frames_with_empty_payload
                .take(),
        )
        .unwrap_or(default.empty_frames),
        priorities_per_stream: number(options.max_inbound_priority_frames_per_stream.take())
            .unwrap_or(default.priorities_per_stream),
        window_updates_per_data_frame: number(
            options
                .max_inbound_window_update_frames_per_data_frame_sent
                .take(),
        )
        .unwrap_or(default.window_updates_per_data_frame),
    }
}
