//! What is measured: tests, in groups that share one fresh pair of proxies.

use std::time::Duration;

use crate::load::tls::Terms;
use crate::load::{Drive, Kind, Window};
use crate::peer::Protocol;

/// One thing to do with a pair of proxies.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Looks at the memory of proxies that have answered one request.
    Empty,
    Requests {
        kind: Kind,
        drive: Drive,
        connections: usize,
        streams: usize,
    },
    /// Downloads on so many TCP connections.
    Download { streams: usize },
    /// New connections with full handshakes, on these terms of the peer.
    Handshakes(Terms),
    /// So many connections that do nothing.
    Idle { connections: usize },
    /// From the start of proxy A to the first answer, while B serves.
    ColdStart,
    /// Saturated, with two workers and with one, on the same two CPUs.
    TwoWorkers { kind: Kind },
    /// Proxy A with the full set, while the mesh grows from a few services to so many.
    Push { services: usize },
    /// A pair that asks for what it uses, in a small mesh and in one of so many services, of which it calls a few.
    OnDemand { services: usize },
}

/// Tests that one fresh pair goes through, in order.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) protocol: Protocol,
    pub(crate) tests: Vec<Test>,
}

impl Group {
    /// Whether a test means something without proxies.
    pub(crate) fn has_direct(&self) -> bool {
        let is_direct =
            |test: &Test| matches!(test.work, Work::Requests { .. } | Work::Download { .. });
        self.tests.iter().any(is_direct)
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) window: Window,
}

impl Pace {
    pub(crate) fn new(is_quick: bool) -> Self {
        let (rounds, warm_up, length) = if is_quick {
            (2, 250, 700)
        } else {
            (5, 1_000, 4_000)
        };
        Self {
            rounds,
            window: Window {
                warm_up: Duration::from_millis(warm_up),
                length: Duration::from_millis(length),
            },
        }
    }
}

/// All groups; with `only`, the tests whose name contains it.
pub(crate) fn groups(only: Option<&str>) -> Vec<Group> {
    let wanted = |test: &Test| only.is_none_or(|only| test.name.contains(only));
    let selected = all().into_iter().map(|mut group| {
        group.tests.retain(wanted);
        group
    });
    selected.filter(|group| !group.tests.is_empty()).collect()
}

fn all() -> Vec<Group> {
    let group = |protocol, tests| Group { protocol, tests };
    let test = |name, work| Test { name, work };
    let requests = |name, kind, drive, connections, streams| {
        test(
            name,
            Work::Requests {
                kind,
                drive,
                connections,
                streams,
            },
        )
    };
    let one = |name, work| vec![test(name, work)];
    let (slow, fast, full) = (Drive::Rate(1_000), Drive::Rate(5_000), Drive::Saturate);
    let (h1, h2, unary, messages) = (Kind::Http1, Kind::Http2, Kind::Unary, Kind::Conversation);
    vec![
        group(
            Protocol::Http1,
            vec![
                test("empty", Work::Empty),
                requests("h1 1000/s", h1, slow, 16, 1),
                requests("h1 5000/s", h1, fast, 16, 1),
                requests("h1 saturated 16", h1, full, 16, 1),
                requests("h1 saturated 64", h1, full, 64, 1),
                requests("websocket 1000/s", Kind::WebSocket, slow, 16, 1),
                requests("websocket saturated 16", Kind::WebSocket, full, 16, 1),
            ],
        ),
        group(
            Protocol::Http2,
            vec![
                requests("h2 1000/s", h2, slow, 2, 8),
                requests("h2 5000/s", h2, fast, 2, 8),
                requests("h2 saturated 16", h2, full, 2, 8),
                requests("h2 saturated 64", h2, full, 4, 16),
                requests("grpc unary 1000/s", unary, slow, 2, 8),
                requests("grpc unary saturated 64", unary, full, 4, 16),
                requests("grpc stream 1000/s", messages, slow, 2, 8),
                requests("grpc stream saturated 64", messages, full, 4, 16),
            ],
        ),
        group(
            Protocol::Tcp,
            vec![
                test("tcp 1 stream", Work::Download { streams: 1 }),
                test("tcp 8 streams", Work::Download { streams: 8 }),
            ],
        ),
        group(
            Protocol::Tcp,
            one("idle mTLS connections", Work::Idle { connections: 1_000 }),
        ),
        group(
            Protocol::Tls(Terms::EcdsaP256),
            one("handshake P-256", Work::Handshakes(Terms::EcdsaP256)),
        ),
        group(
            Protocol::Tls(Terms::Rsa2048),
            one("handshake RSA-2048 peer", Work::Handshakes(Terms::Rsa2048)),
        ),
        group(
            Protocol::Tls(Terms::Hybrid),
            one("handshake X25519MLKEM768", Work::Handshakes(Terms::Hybrid)),
        ),
        group(Protocol::Http1, one("cold start", Work::ColdStart)),
        group(
            Protocol::Http1,
            one("h1 two workers", Work::TwoWorkers { kind: h1 }),
        ),
        group(
            Protocol::Http2,
            one("h2 two workers", Work::TwoWorkers { kind: h2 }),
        ),
        group(
            Protocol::Http1,
            one("config 1000 services", Work::Push { services: 1_000 }),
        ),
        group(
            Protocol::Http1,
            one("config 5000 services", Work::Push { services: 5_000 }),
        ),
        group(
            Protocol::Http1,
            one("config on demand", Work::OnDemand { services: 10_000 }),
        ),
    ]
}
