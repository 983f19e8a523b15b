//! Names of fields: those of a mesh without an allocation, and how names were written.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

/// Fields that requests and responses of a mesh nearly always have, and that `http` has no constant for.
static OF_A_MESH: [HeaderName; 22] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
    HeaderName::from_static("x-envoy-attempt-count"),
    HeaderName::from_static("x-envoy-upstream-service-time"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("end-user"),
];

/// The field that is written like this, in whatever case. `None` if it is none.
pub(super) fn parse(name: &[u8]) -> Option<HeaderName> {
    let known = OF_A_MESH.iter().find(|known| {
        known.as_str().len() == name.len() && known.as_str().as_bytes().eq_ignore_ascii_case(name)
    });
    match known {
        Some(known) => Some(known.clone()),
        None => HeaderName::from_bytes(name).ok(),
    }
}

/// How the names of a message's fields were written, in their order (Envoy's `preserve_case` formatter).
#[derive(Clone, Debug, Default)]
pub(super) struct WrittenNames(Vec<(HeaderName, Bytes)>);

impl WrittenNames {
    pub(super) fn push(&mut self, name: HeaderName, written: Bytes) {
        self.0.push((name, written));
    }

    /// Calls `write` with each field of `headers`: its name, that as it was written, its value.
    pub(super) fn each<'a>(
        &'a self,
        headers: &'a HeaderMap,
        mut write: impl FnMut(&'a HeaderName, &'a [u8], &'a [u8]),
    ) {
        for name in headers.keys() {
            let mut written = self.0.iter().filter(|(known, _)| known == name);
            for value in headers.get_all(name) {
                let written = written.next().map(|(_, written)| &written[..]);
                let written = written.unwrap_or(name.as_str().as_bytes());
                write(name, written, value.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        for name in &OF_A_MESH {
            assert_eq!(parse(name.as_str().as_bytes()).as_ref(), Some(name));
            assert_eq!(
                parse(name.as_str().to_uppercase().as_bytes()).as_ref(),
                Some(name)
            );
        }
        assert_eq!(parse(b"Host"), Some(http::header::HOST));
        assert_eq!(parse(b"X-Other").unwrap().as_str(), "x-other");
        assert_eq!(parse(b"x other"), None);
    }

    #[test]
    fn each_value_keeps_the_name_that_it_was_written_with() {
        let mut headers = HeaderMap::new();
        let mut names = WrittenNames::default();
        for (name, value) in [("X-A", "1"), ("X-b", "2"), ("x-A", "3")] {
            let parsed = parse(name.as_bytes()).unwrap();
            names.push(parsed.clone(), Bytes::from_static(name.as_bytes()));
            headers.append(parsed, HeaderValue::from_static(value));
        }
        headers.append("x-a", HeaderValue::from_static("4"));
        let mut lines = Vec::new();
        names.each(&headers, |_, name, value| {
            lines.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
        });
        assert_eq!(lines, ["X-A=1", "x-A=3", "x-a=4", "X-b=2"]);
    }
}
