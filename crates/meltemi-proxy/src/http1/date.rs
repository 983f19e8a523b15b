//! The `date` of responses (RFC 9110 section 6.6.1), which changes once a second.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut as _, BytesMut};

const LENGTH: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();

struct Cached {
    text: [u8; LENGTH],
    until: Instant,
}

thread_local! {
    static CACHED: RefCell<Option<Cached>> = const { RefCell::new(None) };
}

/// Writes the present date.
pub(super) fn write(out: &mut BytesMut) {
    CACHED.with_borrow_mut(|cached| {
        let now = Instant::now();
        let cached = match cached {
            Some(cached) if now < cached.until => cached,
            stale => stale.insert(render(now)),
        };
        out.put_slice(&cached.text);
    });
}

fn render(now: Instant) -> Cached {
    let time = SystemTime::now();
    let mut text = [b' '; LENGTH];
    let rendered = httpdate::fmt_http_date(time);
    for (to, from) in text.iter_mut().zip(rendered.bytes()) {
        *to = from;
    }
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    let into_second = since_epoch.unwrap_or_default().subsec_nanos();
    let left = Duration::from_secs(1).saturating_sub(Duration::from_nanos(into_second.into()));
    Cached {
        text,
        until: now + left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_as_others_read_it() {
        let mut out = BytesMut::new();
        write(&mut out);
        let text = std::str::from_utf8(&out).unwrap();
        let read = httpdate::parse_http_date(text).unwrap();
        assert!(read.elapsed().unwrap() < Duration::from_secs(5), "{text}");
    }
}
