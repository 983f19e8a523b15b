//! A stock Envoy answers as our evaluator does: one process, a listener for each set of policies, the same requests to all.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::property::{Dice, policies, request};
use super::*;

const SETS: u64 = 40;
const REQUESTS: usize = 25;
/// A stock Envoy is up within seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The filters that guard requests, before a route that says yes.
fn listener(name: &str, world: &World) -> Value {
    let generated = world.generate("web", Flavour::Envoy);
    let inbound = to_json(&generated.listeners["virtualInbound"]);
    let chains = inbound["filterChains"].as_array().unwrap();
    let filters = chains
        .iter()
        .flat_map(|chain| chain["filters"].as_array().unwrap());
    let mut managers = filters.filter(|filter| filter["typedConfig"]["httpFilters"].is_array());
    let manager = managers.next().unwrap();
    let mut manager = manager.clone();
    let config = &mut manager["typedConfig"];
    let is_kept = |filter: &Value| {
        ["envoy.filters.http.rbac", "envoy.filters.http.router"]
            .iter()
            .any(|name| filter["name"] == *name)
    };
    config["httpFilters"]
        .as_array_mut()
        .unwrap()
        .retain(is_kept);
    config["routeConfig"] = json!({"virtualHosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "directResponse": {"status": 200}}]}]});
    json!({"name": name, "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "filterChains": [{"filters": [manager]}]})
}

fn start(
    binary: &std::ffi::OsStr,
    listeners: &[Value],
    folder: &std::path::Path,
) -> (Envoy, SocketAddr) {
    let admin = folder.join("admin");
    let config = json!({
        "admin": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}}},
        "staticResources": {"listeners": listeners},
    });
    let file = folder.join("envoy.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let child = Command::new(binary)
        .args(["--concurrency", "1", "--disable-hot-restart", "-c"])
        .arg(&file)
        .arg("--admin-address-path")
        .arg(&admin)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut envoy = Envoy(child);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let address = std::fs::read_to_string(&admin).unwrap_or_default();
        if let Ok(address) = address.trim().parse()
            && get(address, "/ready").contains("LIVE")
        {
            return (envoy, address);
        }
        let log = || std::fs::read_to_string(folder.join("log")).unwrap();
        assert!(envoy.0.try_wait().unwrap().is_none(), "{}", log());
        assert!(Instant::now() < deadline, "{}", log());
        std::thread::yield_now();
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    )
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(address: SocketAddr, ask: &Ask<'_>) -> String {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\n",
        ask.method, ask.path, ask.host
    );
    write!(text, "x-forwarded-for: {}\r\n", ask.remote).unwrap();
    for (name, value) in ask.headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("content-length: 0\r\nconnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    // Envoy takes its time to close.
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    let head = std::str::from_utf8(&head).unwrap();
    head.strip_prefix("HTTP/1.1 ").unwrap().to_owned()
}

#[test]
fn a_stock_envoy_decides_alike() {
    let Some(binary) = std::env::var_os("ENVOY_BINARY") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "ENVOY_BINARY names no stock Envoy"
        );
        eprintln!("SKIPPED: ENVOY_BINARY names no stock Envoy to compare with");
        return;
    };
    let sets: Vec<(String, World)> = (1..=SETS)
        .map(|seed| {
            let documents = policies(&mut Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let world = World::new(&format!("{SHOP}{documents}"));
            (documents, world)
        })
        .collect();
    let listeners: Vec<Value> = sets
        .iter()
        .enumerate()
        .map(|(index, (_, world))| listener(&format!("set-{index}"), world))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (_envoy, admin) = start(&binary, &listeners, folder.path());
    let bound = get(admin, "/listeners");
    let mut answers = [0, 0];
    for (index, (documents, world)) in sets.iter().enumerate() {
        let name = format!("set-{index}::");
        let line = bound.lines().find_map(|line| line.strip_prefix(&name));
        let address: SocketAddr = line.unwrap().parse().unwrap();
        let proxy = Proxy::of(world, "web");
        let (filters, _) = guards(chain(&proxy.capture["inbound"], &plain()));
        let mut dice = Dice::new(index as u64 + 77);
        for _ in 0..REQUESTS {
            let ask = Ask {
                source: "127.0.0.1",
                port: address.port(),
                ..request(&mut dice)
            };
            let allowed = judge_at(&filters, &ask) == "allowed";
            let expected = if allowed { "200" } else { "403" };
            let got = status(address, &ask);
            assert_eq!(
                got, expected,
                "{} {} {} {:?}\n{documents}",
                ask.method, ask.host, ask.path, ask.headers
            );
            answers[usize::from(allowed)] += 1;
        }
    }
    assert!(answers.iter().all(|count| *count > 50), "{answers:?}");
}

/// Where the listener is is where the call goes.
fn judge_at(filters: &[Arc<RbacFilter>], ask: &Ask<'_>) -> String {
    with_request(ask, true, |request| {
        let request = RbacRequest {
            destination: SocketAddr::new("127.0.0.1".parse().unwrap(), ask.port),
            ..*request
        };
        let denied = filters
            .iter()
            .any(|filter| !rbac::evaluate(filter, &request).0.is_allowed);
        if denied { "denied" } else { "allowed" }.to_owned()
    })
}
