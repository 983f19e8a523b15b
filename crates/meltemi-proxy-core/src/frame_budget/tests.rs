use super::*;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const RST_STREAM: u8 = 3;

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let len = u32::try_from(payload).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags, 0, 0, 0, 1];
    frame.resize(9 + payload, 0);
    frame
}

fn started() -> FrameMeter {
    let mut meter = FrameMeter::new(FrameRules::default());
    assert_eq!(meter.read(&[0; 24], || Duration::ZERO), None);
    meter
}

/// How many frames pass before the meter says stop, up to `bound`.
fn passed(meter: &mut FrameMeter, frame: &[u8], bound: usize, elapsed: Duration) -> usize {
    (0..bound)
        .find(|_| meter.read(frame, || elapsed).is_some())
        .unwrap_or(bound)
}

/// C20: each kind of frame that a peer can send for nothing.
#[test]
fn floods_are_cut() {
    for (kind, payload, expected) in [
        (SETTINGS, 0, 1000),
        (PING, 8, 1000),
        (RST_STREAM, 4, 1000),
        (0xfa, 3, 1000),
        (kind::PRIORITY, 5, 100),
        (kind::WINDOW_UPDATE, 4, 1000),
    ] {
        let found = passed(
            &mut started(),
            &frame(kind, 0, payload),
            20_000_000 / 9,
            Duration::ZERO,
        );
        assert_eq!(found, expected, "kind {kind}");
    }
}

/// C21, first half.
#[test]
fn empty_data_is_cut_and_an_empty_end_is_not() {
    assert_eq!(
        passed(
            &mut started(),
            &frame(kind::DATA, 0, 0),
            1000,
            Duration::ZERO
        ),
        100
    );
    assert_eq!(
        passed(
            &mut started(),
            &frame(kind::DATA, END_STREAM, 0),
            100_000,
            Duration::ZERO
        ),
        100_000
    );
}

/// C21, second half: a gRPC peer that streams small messages both ways, tells of each that it was read, and probes.
#[test]
fn honest_streams_are_never_cut() {
    let mut meter = started();
    for message in 0..200_000_u32 {
        let now = || Duration::from_micros(u64::from(message) * 10);
        if message % 200 == 0 {
            assert_eq!(
                meter.read(&frame(kind::HEADERS, END_HEADERS, 40), now),
                None
            );
        }
        assert_eq!(meter.read(&frame(kind::DATA, 0, 10), now), None);
        meter.sent(24);
        assert_eq!(
            meter.read(&frame(kind::WINDOW_UPDATE, 0, 4), now),
            None,
            "{message}"
        );
        assert_eq!(
            meter.read(&frame(kind::WINDOW_UPDATE, 0, 4), now),
            None,
            "{message}"
        );
        if message % 100 == 0 {
            assert_eq!(meter.read(&frame(PING, 0, 8), now), None, "{message}");
            assert_eq!(meter.read(&frame(RST_STREAM, 0, 4), now), None, "{message}");
        }
    }
}

#[test]
fn the_budget_grows_with_time_but_is_not_saved_up() {
    let mut meter = started();
    let ping = frame(PING, 0, 8);
    for second in 1..5 {
        let now = Duration::from_secs(second);
        for _ in 0..900 {
            assert_eq!(meter.read(&ping, || now), None);
        }
    }
    let found = passed(&mut meter, &ping, 100_000, Duration::from_secs(3600));
    assert!((1000..=2000).contains(&found), "{found}");
}

#[test]
fn answers_to_pings_do_not_pay_for_pings() {
    let mut meter = started();
    let ping = frame(PING, 0, 8);
    let cut = (0..10_000).find(|_| {
        meter.sent(17);
        meter.read(&ping, || Duration::ZERO).is_some()
    });
    assert!(cut.is_some_and(|cut| cut < 1100), "{cut:?}");
}

#[test]
fn what_passes_ends_with_a_frame_however_the_bytes_are_cut() {
    let pings = frame(PING, 0, 8).repeat(1100);
    for cut in 1..40 {
        let mut meter = started();
        let mut total = 0;
        for part in pings.chunks(cut) {
            match meter.read(part, || Duration::ZERO) {
                None => total += part.len(),
                Some(passed) => {
                    total += passed;
                    break;
                }
            }
        }
        assert_eq!(total, 1001 * 17, "{cut}");
    }
}

#[test]
fn unfinished_heads_are_seen() {
    let mut meter = FrameMeter::new(FrameRules::default());
    let mut read = |bytes: &[u8]| {
        assert_eq!(meter.read(bytes, || Duration::ZERO), None);
        meter.unfinished_head()
    };
    assert_eq!(read(&[0; 20]), Some(0));
    assert_eq!(read(&[0; 4]), None);
    let headers = frame(kind::HEADERS, 0, 5);
    assert_eq!(read(&headers[..3]), Some(0));
    assert_eq!(read(&headers[3..11]), Some(1));
    assert_eq!(read(&headers[11..]), Some(1));
    let rest = frame(kind::CONTINUATION, END_HEADERS, 5);
    assert_eq!(read(&rest[..10]), Some(1), "still the same block");
    assert_eq!(read(&rest[10..]), None);
    let data = frame(kind::DATA, 0, 10);
    assert_eq!(
        read(&data[..12]),
        None,
        "a slow body is the stream's own matter"
    );
    assert_eq!(read(&data[12..]), None);
}
