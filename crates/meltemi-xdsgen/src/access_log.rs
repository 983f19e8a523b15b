//! The access log that MeshConfig asks for.

use meltemi_api::istio::AccessLogEncoding;
use meltemi_proto::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter,
};
use meltemi_proto::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use meltemi_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use meltemi_proto::google::protobuf::Struct;

use crate::inputs::Inputs;
use crate::wire;

/// Istio's default line.
const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default JSON object.
const JSON_FORMAT: [(&str, &str); 23] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
];

/// The logs of an HTTP connection manager or TCP proxy; none unless `accessLogFile` is set.
pub(crate) fn of_connections(inputs: &Inputs<'_>) -> Vec<AccessLog> {
    let config = inputs.config();
    if config.access_log_file.is_empty() {
        return Vec::new();
    }
    let format = match config.access_log_encoding {
        AccessLogEncoding::Text => {
            let line = non_empty(&config.access_log_format).unwrap_or(TEXT_FORMAT);
            substitution_format_string::Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(line.to_owned())),
                ..DataSource::default()
            })
        }
        AccessLogEncoding::Json => {
            substitution_format_string::Format::JsonFormat(json_format(&config.access_log_format))
        }
    };
    let log = FileAccessLog {
        path: config.access_log_file.clone(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(
            SubstitutionFormatString {
                format: Some(format),
                ..SubstitutionFormatString::default()
            },
        )),
    };
    vec![AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(access_log::ConfigType::TypedConfig(wire::any(&log))),
    }]
}

/// The logs of a listener: connections for which no filter chain was found.
pub(crate) fn of_listener(inputs: &Inputs<'_>) -> Vec<AccessLog> {
    let no_route = AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ResponseFlagFilter(
            ResponseFlagFilter {
                flags: vec!["NR".to_owned()],
            },
        )),
    };
    of_connections(inputs)
        .into_iter()
        .map(|log| AccessLog {
            filter: Some(no_route.clone()),
            ..log
        })
        .collect()
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The user's object as it is, nested and typed, else Istio's; what is no object does not get this far.
fn json_format(format: &str) -> Struct {
    match serde_json::from_str::<serde_json::Map<_, _>>(format).ok() {
        Some(fields) => wire::strukt(fields.into_iter().map(|(key, of)| (key, wire::json(of)))),
        None => {
            let fields = JSON_FORMAT
                .into_iter()
                .chain([("route_name", "%ROUTE_NAME%")]);
            wire::strukt(fields.map(|(key, text)| (key, wire::text(text))))
        }
    }
}
