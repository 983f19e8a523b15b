//! A stock Envoy beside our own proxy, to compare with. `ENVOY_BINARY=/path/to/envoy` names it.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The Envoy to compare with, if there is one; in CI there must be.
pub(super) fn binary() -> Option<OsString> {
    let binary = std::env::var_os("ENVOY_BINARY");
    if binary.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ENVOY_BINARY names no stock Envoy"
        );
        eprintln!(
            "SKIPPED: `cargo xtask test` fetches a stock Envoy to compare with; or set ENVOY_BINARY"
        );
    }
    binary
}

/// A stock Envoy that ends with the test.
pub(super) struct Envoy {
    process: Child,
    _config: tempfile::NamedTempFile,
    /// One per connection manager.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Envoy {
    pub(super) async fn start(binary: &OsStr, managers: &[Value], clusters: &[Value]) -> Self {
        // All at once, or the kernel hands out the same one twice.
        let free: Vec<_> = managers
            .iter()
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> =
            free.iter().map(|free| free.local_addr().unwrap()).collect();
        drop(free);
        let listeners: Vec<Value> = managers
            .iter()
            .zip(&addresses)
            .map(|(manager, address)| {
                json!({"name": format!("l{}", address.port()),
                    "address": {"socketAddress": {"address": "127.0.0.1", "portValue": address.port()}},
                    "filterChains": [{"filters": [{"name": "hcm", "typedConfig": manager}]}]})
            })
            .collect();
        let mut config = tempfile::NamedTempFile::with_suffix(".json").unwrap();
        write!(
            config,
            "{}",
            json!({"staticResources": {"listeners": listeners, "clusters": clusters}})
        )
        .unwrap();
        let process = Command::new(binary)
            .args([
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "20",
                "-l",
                "error",
                "-c",
            ])
            .arg(config.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut envoy = Self {
            process,
            _config: config,
            addresses,
        };
        for address in envoy.addresses.clone() {
            while TcpStream::connect(address).await.is_err() {
                assert!(
                    envoy.process.try_wait().unwrap().is_none(),
                    "Envoy has ended"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        envoy
    }
}
