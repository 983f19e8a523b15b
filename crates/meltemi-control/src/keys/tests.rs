use std::collections::HashMap;
use std::net::SocketAddr;

use meltemi_pki::{EdgeTls, PrivateKey, ServingCertificate};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyUsagePurpose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

pub(crate) const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;

/// Serves whole answers by path, as often as asked.
pub(crate) async fn server(
    answers: impl Fn(SocketAddr) -> HashMap<&'static str, String>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = answers(address);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let answer = answers
                .get(path)
                .map_or("HTTP/1.1 404 No\r\n\r\n", |text| text);
            // A client that has read enough is gone.
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    address
}

pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

/// A client that may talk to this machine.
fn client() -> Client {
    let allowed = vec!["127.0.0.1/32".parse().unwrap()];
    let policy = AddressPolicy {
        allowed,
        ..AddressPolicy::default()
    };
    Client::new(None, policy)
}

async fn said(client: &Client, source: JwksSource) -> String {
    match client.keys(&source).await {
        Ok(keys) => keys.to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn keys_are_fetched_within_bounds() {
    let address = server(|address| {
        let base = format!("http://{address}");
        HashMap::from([
            ("/keys", ok(KEYS)),
            ("/moved", redirect("/keys")),
            ("/far", redirect(&format!("{base}/moved"))),
            ("/loop", redirect("/loop")),
            ("/metadata", redirect("http://169.254.169.254/latest")),
            ("/file", redirect("file:///etc/passwd")),
            ("/html", ok("<html>")),
            ("/none", ok(r#"{"keys": []}"#)),
            ("/large", ok(&" ".repeat(fetch::BODY_LIMIT_BYTES + 1))),
            (
                "/good/.well-known/openid-configuration",
                ok(&format!(
                    r#"{{"issuer": "{base}/good", "jwks_uri": "{base}/keys"}}"#
                )),
            ),
            (
                "/other/.well-known/openid-configuration",
                ok(&format!(
                    r#"{{"issuer": "{base}/good", "jwks_uri": "{base}/keys"}}"#
                )),
            ),
            ("/empty/.well-known/openid-configuration", ok("{}")),
            (
                "/bare/.well-known/openid-configuration",
                ok(&format!(r#"{{"issuer": "{base}/bare"}}"#)),
            ),
        ])
    })
    .await;
    let client = client();
    let base = format!("http://{address}");
    let no_key = "has no key that can check a signature (RSA, EC P-256 or P-384, Ed25519, oct)";
    for (path, expected) in [
        ("/keys", KEYS.to_owned()),
        ("/moved", KEYS.to_owned()),
        ("/far", KEYS.to_owned()),
        ("/loop", format!("{base}/loop redirects too often")),
        (
            "/metadata",
            "http://169.254.169.254:80/latest has no address that keys may be fetched from"
                .to_owned(),
        ),
        (
            "/file",
            "\"file:///etc/passwd\" is not an http:// or https:// URL".to_owned(),
        ),
        ("/none", format!("the answer of {base}/none {no_key}")),
        (
            "/large",
            format!("the answer of {base}/large is cut off, or above 131072 bytes"),
        ),
        ("/absent", format!("{base}/absent answers 404 Not Found")),
    ] {
        let found = said(&client, JwksSource::Url(format!("{base}{path}"))).await;
        assert_eq!(found, expected, "{path}");
    }
    let found = said(&client, JwksSource::Url(format!("{base}/html"))).await;
    assert!(found.contains("is not JSON that a proxy reads"), "{found}");
    for (issuer, expected) in [
        ("/good", KEYS.to_owned()),
        ("/good/", KEYS.to_owned()),
        (
            "/other",
            format!("the discovery document of {base}/other is of another issuer"),
        ),
        (
            "/empty",
            format!("the discovery document of {base}/empty has no issuer"),
        ),
        (
            "/bare",
            format!("the discovery document of {base}/bare has no jwks_uri"),
        ),
    ] {
        let found = said(&client, JwksSource::Issuer(format!("{base}{issuer}"))).await;
        assert_eq!(found, expected, "{issuer}");
    }
    let nobody = said(&client, JwksSource::Issuer("me@example.com".to_owned())).await;
    assert!(
        nobody.ends_with("is not an http:// or https:// URL"),
        "{nobody}"
    );
}

#[tokio::test]
async fn this_machine_is_not_asked() {
    let address = server(|_| HashMap::from([("/keys", ok(KEYS))])).await;
    let client = Client::new(None, AddressPolicy::default());
    let port = address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let url = format!("http://{host}:{port}/keys");
        let found = said(&client, JwksSource::Url(url)).await;
        assert!(
            found.ends_with("has no address that keys may be fetched from"),
            "{found}"
        );
    }
    let credentials = format!("http://a:b@{address}/keys");
    let found = said(&client, JwksSource::Url(credentials)).await;
    assert!(
        found.ends_with("is not an http:// or https:// URL"),
        "{found}"
    );
}

/// A server of keys with a certificate for `name`; its port, and its authority in PEM.
async fn https(name: &str) -> (u16, String) {
    let key = PrivateKey::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().pem();
    let own = PrivateKey::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = leaf
        .signed_by(&own, &Issuer::from_params(&params, &key))
        .unwrap();
    let pem = own.to_pem().unwrap();
    let now = std::time::SystemTime::now();
    let certificate = ServingCertificate::from_pem(leaf.pem().as_bytes(), pem.as_bytes(), now);
    let tls = EdgeTls::new(&certificate.unwrap()).build().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            drop(stream.read_u8().await);
            drop(stream.write_all(ok(KEYS).as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (port, root)
}

/// Who serves keys proves the name in the URL, to the roots that are configured.
#[tokio::test]
async fn servers_of_keys_prove_their_name() {
    let (port, root) = https("localhost").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.pem");
    std::fs::write(&path, root).unwrap();
    let policy = client().policy;
    let trusting = Client::new(Some(&path), policy.clone());
    let of = |host: &str| JwksSource::Url(format!("https://{host}:{port}/keys"));
    assert_eq!(said(&trusting, of("localhost")).await, KEYS);
    let found = said(&trusting, of("127.0.0.1")).await;
    assert!(
        found.starts_with("no TLS with https://127.0.0.1:"),
        "{found}"
    );
    let (_, other) = https("localhost").await;
    std::fs::write(&path, other).unwrap();
    let stranger = Client::new(Some(&path), policy.clone());
    let found = said(&stranger, of("localhost")).await;
    assert!(
        found.starts_with("no TLS with https://localhost:"),
        "{found}"
    );
    let without = Client::new(Some(&folder.path().join("absent")), policy);
    let found = said(&without, of("localhost")).await;
    assert!(
        found.starts_with("no root certificates are known"),
        "{found}"
    );
}

/// What systems keep is taken whole.
#[test]
fn roots_of_the_system_are_understood() {
    let has_some = fetch::SYSTEM_ROOTS
        .iter()
        .any(|path| std::path::Path::new(path).exists());
    assert_eq!(
        Client::new(None, AddressPolicy::default()).has_roots(),
        has_some
    );
}

fn keeper() -> Keeper {
    Keeper {
        client: client(),
        refresh: Duration::from_secs(1200),
        board: Board::default(),
        counters: Counters::default(),
        running: JoinSet::new(),
        fetching: HashMap::new(),
    }
}

/// The last good keys are used until they are too old, and a failure is tried again ever later.
#[tokio::test(start_paused = true)]
async fn keys_outlive_their_issuer_for_a_day() {
    let keeper = keeper();
    let source = JwksSource::Url("https://a/keys".to_owned());
    let mut state = State::new(&source);
    state.is_running = true;
    keeper.board.0.lock().insert(source.clone(), state);
    let failed = || Err(FetchError::Connect("https://a".to_owned()));
    let news = |result| keeper.note(source.clone(), result).unwrap().news;
    let wanted = Wanted::from([(source.clone(), Duration::from_secs(5))]);
    let wait = || {
        keeper
            .next(&wanted)
            .duration_since(Instant::now())
            .as_secs()
    };
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(matches!(news(failed()), News::Failed));
        waits.push(wait());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(matches!(news(Ok(KEYS.into())), News::Keys(_)));
    assert_eq!(wait(), 1200);
    tokio::time::advance(LAST_GOOD_LIMIT - Duration::from_secs(1)).await;
    assert!(matches!(news(failed()), News::Failed));
    assert!(keeper.board.states()[&source].fetched.is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(matches!(news(failed()), News::Gone));
    assert!(matches!(news(failed()), News::Failed));
    // What nobody wants any more is forgotten, and what comes of it too.
    let gone = keeper.forget(&Wanted::default());
    assert!(matches!(
        gone.as_slice(),
        [Fetched {
            news: News::Gone,
            ..
        }]
    ));
    assert!(keeper.note(source, failed()).is_none());
}

#[tokio::test]
async fn serving_begins_with_the_keys_that_can_be_had() {
    let address = server(|_| HashMap::from([("/keys", ok(KEYS))])).await;
    let good = JwksSource::Url(format!("http://{address}/keys"));
    let bad = JwksSource::Url(format!("http://{address}/absent"));
    let second = Duration::from_secs(5);
    let wanted = Wanted::from([(good.clone(), second), (bad.clone(), second)]);
    let mut keeper = keeper();
    let found = keeper.first(&wanted).await;
    let of = |source: &JwksSource| {
        let found = found.iter().find(|one| one.source == *source);
        matches!(found.unwrap().news, News::Keys(_))
    };
    assert!(of(&good) && !of(&bad));
    let states = keeper.board().states();
    assert!(states[&good].failure.is_none() && states[&bad].failure.is_some());
    assert_eq!(
        (
            keeper.counters.successes.get(),
            keeper.counters.failures.get()
        ),
        (1, 1)
    );
}

/// One host gets two slots, and who has waited longest gets the others.
#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_does_not_hold_up_the_others() {
    let mut keeper = keeper();
    let of = |host: &str, path: usize| JwksSource::Url(format!("http://{host}/{path}"));
    let timeout = Duration::from_secs(5);
    let hanging = (0..30).map(|path| (of("127.0.0.2", path), timeout));
    let others = (0..10).map(|host| (of(&format!("127.0.1.{host}"), 0), timeout));
    let wanted: Wanted = hanging.chain(others).collect();
    let longest = of("127.0.1.9", 0);
    let mut state = State::new(&longest);
    state.next = Instant::now();
    keeper.board.0.lock().insert(longest.clone(), state);
    tokio::time::advance(Duration::from_secs(1)).await;
    keeper.start(&wanted);
    assert_eq!(keeper.running.len(), FETCH_LIMIT);
    let states = keeper.board.states();
    let running = |host: &str| {
        let running = states.values().filter(|state| state.is_running);
        running.filter(|state| *state.host == *host).count()
    };
    assert_eq!((running("127.0.0.2"), running("127.0.1.9")), (2, 1));
    assert!(keeper.next(&wanted) > Instant::now());
}

/// Who cannot be started is not waited for, though there are slots.
#[tokio::test(start_paused = true)]
async fn a_busy_host_does_not_make_the_task_spin() {
    let mut keeper = keeper();
    let of = |path: usize| JwksSource::Url(format!("http://127.0.0.2/{path}"));
    let wanted: Wanted = (0..5)
        .map(|path| (of(path), Duration::from_secs(5)))
        .collect();
    keeper.start(&wanted);
    assert_eq!(keeper.running.len(), HOST_FETCH_LIMIT);
    assert!(keeper.next(&wanted) > Instant::now());
}

/// A set that is not looked after is not waited for, but grows old.
#[tokio::test(start_paused = true)]
async fn keys_grow_old_without_a_fetch() {
    let keeper = keeper();
    let source = JwksSource::Url("https://z/keys".to_owned());
    let mut state = State::new(&source);
    state.fetched = Some(Instant::now());
    keeper.board.0.lock().insert(source.clone(), state);
    let many = (0..SOURCE_LIMIT).map(|n| JwksSource::Url(format!("https://a/{n}")));
    let wanted: Wanted = many
        .chain([source.clone()])
        .map(|source| (source, Duration::from_secs(5)))
        .collect();
    assert!(keeper.next(&wanted) > Instant::now());
    assert!(keeper.expire().is_empty());
    tokio::time::advance(LAST_GOOD_LIMIT).await;
    let gone = keeper.expire();
    assert!(matches!(
        gone.as_slice(),
        [Fetched {
            news: News::Gone,
            ..
        }]
    ));
    assert!(keeper.expire().is_empty());
    assert!(keeper.board.states()[&source].failure.is_some());
}

/// What people read holds no secrets of a URL.
#[test]
fn urls_are_shown_without_their_secrets() {
    for (url, expected) in [
        ("https://a:1/keys?token=secret", "https://a:1/keys"),
        ("https://u:secret@a", "https://a"),
        ("me@example.com", "me@example.com"),
    ] {
        let shown = fetch::shown_source(&JwksSource::Url(url.to_owned()));
        assert_eq!(shown.to_string(), expected);
    }
}

/// Who writes the object learns of it, at the field to change.
#[test]
fn a_failure_is_a_diagnostic_of_the_rule() {
    let text = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: p}\nspec:\n  jwtRules:\n  - issuer: i\n    jwksUri: https://a/keys\n";
    let objects = meltemi_api::parse("p.yaml", text, "default").objects;
    let mut mesh = Mesh::default();
    let changes: Vec<_> = objects
        .into_iter()
        .map(meltemi_api::Change::Upsert)
        .collect();
    mesh.apply(&changes);
    let board = Board::default();
    assert!(board.diagnostics(&mesh).is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let source = JwksSource::Url("https://a/keys".to_owned());
    let mut state = runtime.block_on(async { State::new(&source) });
    state.failure = Some("no answer".into());
    board.0.lock().insert(source, state);
    let found = board.diagnostics(&mesh).remove(0).to_string();
    for part in [
        "MEL0301",
        "RequestAuthentication default/p",
        "spec.jwtRules[0].jwksUri",
        "no answer",
    ] {
        assert!(found.contains(part), "{found}");
    }
}
