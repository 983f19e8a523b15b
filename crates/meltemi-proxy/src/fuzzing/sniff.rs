//! The first bytes of a connection.

use crate::listener::inspect::{Spoken, Verdict, inspect};

const TLS_HANDSHAKE: u8 = 0x16;

/// The first bytes of a connection, as they arrive piece by piece: an answer that was given stays, and what began as TLS is
/// never taken for plain text (CVE-2020-8660).
///
/// # Panics
/// It does not, or is.
pub(crate) fn sniff(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = inspect(bytes, true, true);
    if let [TLS_HANDSHAKE, 3, ..] = bytes {
        let is_plain = matches!(
            whole,
            Verdict::Decided(Spoken::Http10 | Spoken::Http11 | Spoken::Http2 | Spoken::Opaque)
        );
        assert!(!is_plain, "{whole:?}");
    }
    let cut = usize::from(*cut).min(bytes.len());
    let Some(first) = bytes.get(..cut) else {
        return;
    };
    let early = inspect(first, true, true);
    if early != Verdict::NeedMore {
        assert_eq!(early, whole, "after {cut} bytes");
    }
}
