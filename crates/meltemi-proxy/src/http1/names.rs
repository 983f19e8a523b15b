//! Names of fields: those of a mesh without an allocation, and how names were written.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::Error;

/// A name, and what it is once parsed.
struct Known(&'static str, HeaderName);

const fn known(name: &'static str) -> Known {
    Known(name, HeaderName::from_static(name))
}

/// Fields that requests and responses of a mesh nearly always have, and that `http` has no constant for; by length.
static OF_A_MESH: [Known; 22] = [
    known("end-user"),
    known("tracestate"),
    known("grpc-status"),
    known("traceparent"),
    known("x-b3-spanid"),
    known("grpc-message"),
    known("x-b3-sampled"),
    known("x-b3-traceid"),
    known("x-request-id"),
    known("x-forwarded-for"),
    known("x-envoy-internal"),
    known("x-forwarded-host"),
    known("x-b3-parentspanid"),
    known("x-forwarded-proto"),
    known("x-envoy-attempt-count"),
    known("x-envoy-original-path"),
    known("x-envoy-peer-metadata"),
    known("x-forwarded-client-cert"),
    known("x-envoy-peer-metadata-id"),
    known("x-envoy-decorator-operation"),
    known("x-envoy-upstream-service-time"),
    known("x-envoy-expected-rq-timeout-ms"),
];

/// The field that is written like this, in whatever case. `None` if it is none.
pub(super) fn parse(name: &[u8]) -> Option<HeaderName> {
    let known = OF_A_MESH
        .iter()
        .skip_while(|known| known.0.len() < name.len())
        .take_while(|known| known.0.len() == name.len())
        .find(|known| known.0.as_bytes().eq_ignore_ascii_case(name));
    match known {
        Some(known) => Some(known.1.clone()),
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
        mut write: impl FnMut(&'a HeaderName, &'a [u8], &'a HeaderValue) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for name in headers.keys() {
            let mut written = self.0.iter().filter(|(known, _)| known == name);
            for value in headers.get_all(name) {
                let written = written.next().map(|(_, written)| &written[..]);
                let written = written.unwrap_or(name.as_str().as_bytes());
                write(name, written, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        assert!(OF_A_MESH.is_sorted_by_key(|known| known.0.len()));
        for Known(text, name) in &OF_A_MESH {
            assert_eq!(name, text);
            assert_eq!(parse(text.as_bytes()).as_ref(), Some(name));
            assert_eq!(parse(text.to_uppercase().as_bytes()).as_ref(), Some(name));
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
        let each = names.each(&headers, |_, name, value| {
            lines.push(format!(
                "{}={}",
                name.escape_ascii(),
                value.as_bytes().escape_ascii()
            ));
            Ok(())
        });
        each.unwrap();
        assert_eq!(lines, ["X-A=1", "x-A=3", "x-a=4", "X-b=2"]);
    }
}
