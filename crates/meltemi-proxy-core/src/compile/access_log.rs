use std::mem::take;
use std::sync::Arc;

use meltemi_proto::envoy::config::accesslog::v3 as proto;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::access_loggers::{
    file::v3 as file_proto, stream::v3 as stream_proto,
};
use meltemi_proto::google::protobuf::Struct;
use meltemi_proto::type_url;

use super::Scope;
use super::common::{fraction, header_matcher, log_pieces, resolve, struct_to_json, unpack};
use crate::flags::ResponseFlags;
use crate::runtime::{
    AccessLog, AccessLogFilter, AccessLogSink, Comparison, ComparisonOp, JsonNode, LogFormat,
};

const STDERR_ACCESS_LOG: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog";
/// Envoy's default format.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(super) fn access_logs(scope: &Scope<'_>, logs: Vec<proto::AccessLog>) -> Vec<Arc<AccessLog>> {
    scope.each("access_log", logs, |scope, log| {
        access_log(scope, log).map(Arc::new)
    })
}

fn access_log(scope: &Scope<'_>, mut log: proto::AccessLog) -> Option<AccessLog> {
    let filter = match log.filter.take() {
        None => None,
        Some(filter) => Some(self::filter(&scope.at("filter"), filter)?),
    };
    let Some(proto::access_log::ConfigType::TypedConfig(config)) = log.config_type.take() else {
        return scope.at("typed_config").refuse("is required");
    };
    let scope = scope.at("typed_config");
    let config = resolve(&scope, &config)?;
    let (sink, format) = match config.type_url.as_str() {
        type_url::FILE_ACCESS_LOG => {
            let message: file_proto::FileAccessLog = unpack(&scope, &config)?;
            (
                file_sink(message.path),
                file_format(&scope, message.access_log_format)?,
            )
        }
        type_url::STDOUT_ACCESS_LOG => {
            use stream_proto::stdout_access_log::AccessLogFormat as F;
            let message: stream_proto::StdoutAccessLog = unpack(&scope, &config)?;
            let format = message.access_log_format.map(|F::LogFormat(format)| format);
            (AccessLogSink::Stdout, substitution_format(&scope, format)?)
        }
        STDERR_ACCESS_LOG => {
            use stream_proto::stderr_access_log::AccessLogFormat as F;
            let message: stream_proto::StderrAccessLog = unpack(&scope, &config)?;
            let format = message.access_log_format.map(|F::LogFormat(format)| format);
            (AccessLogSink::Stderr, substitution_format(&scope, format)?)
        }
        other => return scope.refuse(format!("{other} is not supported")),
    };
    Some(AccessLog {
        sink,
        format,
        filter,
    })
}

fn file_sink(path: String) -> AccessLogSink {
    match path.as_str() {
        "/dev/stdout" => AccessLogSink::Stdout,
        "/dev/stderr" => AccessLogSink::Stderr,
        _ => AccessLogSink::File(path.into()),
    }
}

fn file_format(
    scope: &Scope<'_>,
    format: Option<file_proto::file_access_log::AccessLogFormat>,
) -> Option<LogFormat> {
    use file_proto::file_access_log::AccessLogFormat as F;
    match format {
        None => substitution_format(scope, None),
        Some(F::Format(text)) if text.is_empty() => substitution_format(scope, None),
        Some(F::Format(text)) => log_pieces(&scope.at("format"), &text).map(LogFormat::Text),
        Some(F::JsonFormat(fields)) => json_format(&scope.at("json_format"), fields),
        Some(F::TypedJsonFormat(fields)) => json_format(&scope.at("typed_json_format"), fields),
        Some(F::LogFormat(format)) => substitution_format(&scope.at("log_format"), Some(format)),
    }
}

fn substitution_format(
    scope: &Scope<'_>,
    format: Option<core::SubstitutionFormatString>,
) -> Option<LogFormat> {
    use core::data_source::Specifier as S;
    use core::substitution_format_string::Format as F;
    let mut format = format.unwrap_or_default();
    format.json_format_options = None; // keys keep a stable order
    format.content_type = String::new(); // only for replies
    // Istio lists REQ_WITHOUT_QUERY and METADATA; an operator that we lack is refused where it is used.
    format.formatters.clear();
    let compiled = match format.format.take() {
        None => log_pieces(scope, DEFAULT_FORMAT).map(LogFormat::Text),
        Some(F::TextFormat(text)) => {
            log_pieces(&scope.at("text_format"), &text).map(LogFormat::Text)
        }
        Some(F::TextFormatSource(source)) => match source.specifier {
            Some(S::InlineString(text)) => {
                log_pieces(&scope.at("text_format_source"), &text).map(LogFormat::Text)
            }
            _ => scope
                .at("text_format_source")
                .refuse("only inline_string is supported"),
        },
        Some(F::JsonFormat(fields)) => json_format(&scope.at("json_format"), fields),
    };
    scope.rest(&format);
    compiled
}

fn json_format(scope: &Scope<'_>, fields: Struct) -> Option<LogFormat> {
    json_node(scope, struct_to_json(fields)).map(LogFormat::Json)
}

fn json_node(scope: &Scope<'_>, value: serde_json::Value) -> Option<JsonNode> {
    use serde_json::Value as J;
    Some(match value {
        J::Null => JsonNode::Null,
        J::Bool(value) => JsonNode::Bool(value),
        J::Number(number) => JsonNode::Number(number),
        J::String(text) => JsonNode::Template(log_pieces(scope, &text)?),
        J::Array(items) => {
            let nodes = items
                .into_iter()
                .enumerate()
                .map(|(i, item)| json_node(&scope.index(i), item));
            JsonNode::List(nodes.collect::<Option<_>>()?)
        }
        J::Object(fields) => {
            let nodes = fields.into_iter().map(|(key, value)| {
                Some((key.as_str().into(), json_node(&scope.key(&key), value)?))
            });
            JsonNode::Object(nodes.collect::<Option<_>>()?)
        }
    })
}

fn filter(scope: &Scope<'_>, filter: proto::AccessLogFilter) -> Option<AccessLogFilter> {
    use AccessLogFilter as F;
    use proto::access_log_filter::FilterSpecifier as S;
    let list = |field: &str, filters: Vec<proto::AccessLogFilter>| {
        let count = filters.len();
        let compiled = scope.at(field).each("filters", filters, self::filter);
        (compiled.len() == count).then_some(compiled)
    };
    match filter.filter_specifier {
        Some(S::StatusCodeFilter(f)) => {
            comparison(&scope.at("status_code_filter"), f.comparison).map(F::StatusCode)
        }
        Some(S::DurationFilter(f)) => {
            comparison(&scope.at("duration_filter"), f.comparison).map(F::Duration)
        }
        Some(S::ResponseFlagFilter(mut f)) => {
            let flags = take(&mut f.flags);
            match flags
                .iter()
                .find(|flag| ResponseFlags::from_short(flag).is_none())
            {
                Some(unknown) => scope
                    .at("response_flag_filter")
                    .refuse(format!("\"{unknown}\" is not a response flag")),
                None => Some(F::ResponseFlags(
                    flags.into_iter().map(Into::into).collect(),
                )),
            }
        }
        Some(S::GrpcStatusFilter(f)) => Some(F::GrpcStatus {
            codes: f
                .statuses
                .iter()
                .filter_map(|code| u32::try_from(*code).ok())
                .collect(),
            exclude: f.exclude,
        }),
        Some(S::HeaderFilter(f)) => match f.header {
            Some(header) => header_matcher(&scope.at("header_filter"), header).map(F::Header),
            None => scope.at("header_filter").refuse("has no header"),
        },
        Some(S::RuntimeFilter(f)) => {
            let share = f.percent_sampled.unwrap_or_default();
            fraction(&scope.at("runtime_filter"), share).map(F::Runtime)
        }
        Some(S::AndFilter(f)) => list("and_filter", f.filters).map(F::AllOf),
        Some(S::OrFilter(f)) => list("or_filter", f.filters).map(F::AnyOf),
        _ => scope.refuse("this kind of filter is not supported"),
    }
}

fn comparison(
    scope: &Scope<'_>,
    comparison: Option<proto::ComparisonFilter>,
) -> Option<Comparison> {
    use proto::comparison_filter::Op as O;
    let Some(comparison) = comparison else {
        return scope.at("comparison").refuse("is required");
    };
    let op = match O::try_from(comparison.op) {
        Ok(O::Eq) => ComparisonOp::Equal,
        Ok(O::Ge) => ComparisonOp::AtLeast,
        Ok(O::Le) => ComparisonOp::AtMost,
        Ok(O::Ne) => ComparisonOp::NotEqual,
        Err(_) => return scope.at("comparison").at("op").refuse("is unknown"),
    };
    Some(Comparison {
        op,
        value: comparison.value.map_or(0, |value| value.default_value),
    })
}
