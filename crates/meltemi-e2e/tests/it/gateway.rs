//! An ingress gateway: Istio's bookinfo from outside of the mesh, by HTTP, HTTPS, mutual TLS, opaque TLS and TCP.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meltemi_e2e::{Lab, eventually, istio, sample};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// An authority for servers and clients at the edge.
struct Authority {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "edge authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("a root").pem();
        Self { key, params, pem }
    }

    /// Certificate and key.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        // One subject for issuer and leaf would look self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let pem = params.signed_by(&key, &issuer).expect("a leaf").pem();
        (pem, key.serialize_pem())
    }

    fn server(&self, name: &str) -> (String, String) {
        self.issue(name, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

fn secret(name: &str, namespace: &str, texts: &[(&str, &str)]) -> String {
    let texts: serde_json::Map<String, Value> = texts
        .iter()
        .map(|(key, text)| ((*key).to_owned(), json!(text)))
        .collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": texts})
        .to_string()
}

/// A client without a sidecar that has the root, and a certificate of its own.
const CLIENT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: outside}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      containers:
      - name: client
        image: curlimages/curl
        command: [sleep, infinity]
        volumeMounts: [{name: certificates, mountPath: /etc/client}]
      volumes: [{name: certificates, secret: {secretName: client}}]
";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [moved.example.com]
    tls: {httpsRedirect: true}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [www.example.com]
    tls: {mode: SIMPLE, credentialName: www}
  - port: {number: 443, name: https-mutual, protocol: HTTPS}
    hosts: [api.example.com]
    tls: {mode: MUTUAL, credentialName: api, subjectAltNames: [client.example.com]}
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: [www.example.com]
    tls: {mode: PASSTHROUGH}
  - port: {number: 31400, name: tcp, protocol: TCP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: www}
spec:
  hosts: [www.example.com]
  gateways: [edge]
  http: [{route: [{destination: {host: productpage, port: {number: 9080}}}]}]
  tls:
  - match: [{port: 15443, sniHosts: [www.example.com]}]
    route: [{destination: {host: istio-ingressgateway.istio-system.svc.cluster.local, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api.example.com]
  gateways: [edge]
  http: [{route: [{destination: {host: httpbin, port: {number: 8000}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp}
spec:
  hosts: ['*']
  gateways: [edge]
  tcp:
  - match: [{port: 31400}]
    route: [{destination: {host: details, port: {number: 9080}}}]
";

const INGRESS: &str = "istio-ingressgateway.istio-system";

fn ingress(lab: &Lab) {
    lab.apply_file(&sample("ingress-gateway/ingress-gateway.yaml"));
}

/// Exit status of curl, status of the answer, and the answer.
fn curl(lab: &Lab, args: &[&str]) -> (i32, String, String) {
    let mut call = vec!["curl", "-sS", "-m", "5", "-w", "\n%{http_code}"];
    call.extend(args);
    let output = lab.exec("deploy/client.outside", "client", &call);
    if output.status != 0 {
        println!("{}: {}", output.line, output.stderr.trim());
    }
    let (body, status) = output.stdout.rsplit_once('\n').unwrap_or_default();
    (output.status, status.to_owned(), body.to_owned())
}

/// A call of `url` that goes to a port of the gateway, whatever the host's name.
fn at_port<'a>(port: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--connect-to", port, "--cacert", "/etc/client/ca.crt"];
    args.extend(rest);
    args
}

#[test]
fn istios_bookinfo_is_reached_from_outside() {
    let lab = Lab::bookinfo("ingress", &[]);
    ingress(&lab);
    lab.apply_file(&istio("bookinfo/networking/bookinfo-gateway.yaml"));
    lab.wait_ready();
    // The pod is a proxy alone, nothing is redirected in it.
    let pods = lab.pods("istio-system");
    let gateway = pods
        .iter()
        .find(|pod| pod["metadata"]["labels"]["istio"] == "ingressgateway");
    let gateway = gateway.expect("a gateway pod");
    assert_eq!(gateway["spec"]["containers"][0]["name"], "istio-proxy");
    assert_eq!(
        gateway["spec"]["containers"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(gateway["spec"]["initContainers"].is_null());
    let page = |path: &str| {
        let url = format!("http://{INGRESS}{path}");
        lab.curl("deploy/ratings-v1", "ratings", &[&url]).1
    };
    eventually("the page is served at the edge", || {
        (page("/productpage") == "200").then_some(())
    });
    assert_eq!(page("/static/missing"), "404", "of the application");
    assert_eq!(page("/unrouted"), "404", "of the gateway");
    // By mutual TLS as the gateway's own identity.
    lab.set_mode("STRICT", "deploy/productpage-v1");
    assert_eq!(page("/productpage"), "200");
    let seen = lab.admin("deploy/productpage-v1", "tls")["downstream"].to_string();
    assert!(
        seen.contains(
            "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
        ),
        "{seen}"
    );
    let status = lab.meltemi(&["proxy-status"]).ok();
    assert!(status.contains("istio-ingressgateway-"), "{status}");
    let target = "deploy/istio-ingressgateway.istio-system";
    let show = |what: &str| lab.meltemi(&["proxy-config", what, target]).ok();
    assert!(show("listeners").contains("8080"), "{}", show("listeners"));
    assert!(show("routes").contains("http.8080"), "{}", show("routes"));
    let clusters = show("clusters");
    assert!(
        clusters.contains("productpage.default.svc.cluster.local"),
        "{clusters}"
    );
    assert!(
        !clusters.contains("reviews.default"),
        "of no route: {clusters}"
    );
    let analysis = lab.meltemi(&["analyze", "-A"]);
    assert!(!analysis.stdout.contains("Gateway"), "{analysis:?}");
}

#[test]
fn tls_of_all_modes_and_a_certificate_that_is_renewed_under_traffic() {
    let authority = Authority::new();
    let (client, client_key) =
        authority.issue("client.example.com", ExtendedKeyUsagePurpose::ClientAuth);
    let (stranger, stranger_key) =
        authority.issue("other.example.com", ExtendedKeyUsagePurpose::ClientAuth);
    let lab = Lab::bookinfo("ingress-tls", &[]);
    lab.apply_file(&istio("httpbin/httpbin.yaml"));
    ingress(&lab);
    lab.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n");
    lab.apply(&secret(
        "client",
        "outside",
        &[
            ("ca.crt", &authority.pem),
            ("tls.crt", &client),
            ("tls.key", &client_key),
            ("stranger.crt", &stranger),
            ("stranger.key", &stranger_key),
        ],
    ));
    lab.apply(CLIENT);
    let (api, api_key) = authority.server("api.example.com");
    let www = |chain: &str, key: &str| {
        secret(
            "www",
            "istio-system",
            &[("tls.crt", chain), ("tls.key", key)],
        )
    };
    let first = authority.server("www.example.com");
    lab.apply(&www(&first.0, &first.1));
    lab.apply(&secret(
        "api",
        "istio-system",
        &[
            ("cert", &api),
            ("key", &api_key),
            ("cacert", &authority.pem),
        ],
    ));
    lab.apply(ROUTES);
    lab.wait_ready();
    let https = format!("::{INGRESS}:443");
    let get = |rest: &[&str]| curl(&lab, &at_port(&https, rest));

    eventually("HTTPS is served", || {
        let (exit, status, body) = get(&["https://www.example.com/productpage"]);
        (exit == 0 && status == "200" && body.contains("</html>")).then_some(())
    });
    let h2 = get(&[
        "--http2",
        "-o",
        "/dev/null",
        "-w",
        "\n%{http_version} %{http_code}",
        "https://www.example.com/productpage",
    ]);
    assert_eq!(h2.1, "2 200", "{h2:?}");
    // No name, or one that nobody serves, finds nothing to talk to.
    assert_ne!(get(&["https://none.example.com/productpage"]).0, 0);

    // A client's certificate, by its authority and its name.
    let mine = [
        "--cert",
        "/etc/client/tls.crt",
        "--key",
        "/etc/client/tls.key",
    ];
    let theirs = [
        "--cert",
        "/etc/client/stranger.crt",
        "--key",
        "/etc/client/stranger.key",
    ];
    let api = "https://api.example.com/headers";
    let (exit, status, body) = get(&[&mine[..], &[api]].concat());
    assert_eq!((exit, status.as_str()), (0, "200"), "{body}");
    assert!(
        body.contains("client.example.com"),
        "XFCC tells the name: {body}"
    );
    assert_ne!(get(&[api]).0, 0, "without a certificate");
    assert_ne!(get(&[&theirs[..], &[api]].concat()).0, 0, "of another name");
    // One server's connection is no way around the other's demands.
    let around = get(&[
        "-H",
        "host: api.example.com",
        "https://www.example.com/headers",
    ]);
    assert_eq!(around.1, "421", "{around:?}");

    let plain = format!("::{INGRESS}:80");
    let moved = curl(
        &lab,
        &at_port(
            &plain,
            &[
                "-w",
                "\n%{http_code} %{redirect_url}",
                "http://moved.example.com/a?b",
            ],
        ),
    );
    assert_eq!(moved.1, "301 https://moved.example.com/a?b", "{moved:?}");
    let opaque = format!("::{INGRESS}:15443");
    let passed = curl(
        &lab,
        &at_port(&opaque, &["https://www.example.com/productpage"]),
    );
    assert_eq!((passed.0, passed.1.as_str()), (0, "200"), "{passed:?}");
    let tcp = format!("http://{INGRESS}:31400/details/0");
    let relayed = curl(&lab, &[&tcp]);
    assert_eq!((relayed.0, relayed.1.as_str()), (0, "200"), "{relayed:?}");

    // Renewed again and again while requests come, each on a connection of its own.
    let (is_over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(60);
            while !is_over.load(Ordering::Relaxed) && Instant::now() < until {
                let (exit, status, body) =
                    get(&["-o", "/dev/null", "https://www.example.com/productpage"]);
                assert_eq!((exit, status.as_str()), (0, "200"), "{body}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..4 {
            let (chain, key) = authority.server("www.example.com");
            lab.apply(&www(&chain, &key));
            shown_certificate(&lab, &chain);
            let before = done.load(Ordering::Relaxed);
            eventually("requests meet the new certificate", || {
                (done.load(Ordering::Relaxed) >= before + 3).then_some(())
            });
        }
        is_over.store(true, Ordering::Relaxed);
        traffic.join().expect("no request failed");
    });

    // Nobody but the gateway has it, and nobody is shown the key.
    let dump = lab
        .admin("deploy/istio-ingressgateway.istio-system", "config_dump")
        .to_string();
    assert!(
        dump.contains("kubernetes://www") && dump.contains("kubernetes://api-cacert"),
        "{dump}"
    );
    assert!(
        !dump.contains("PRIVATE KEY") && !dump.contains("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0"),
        "a key is shown"
    );
    let other = lab
        .admin("deploy/productpage-v1", "config_dump")
        .to_string();
    for name in ["\"kubernetes://www\"", "\"kubernetes://api\""] {
        assert!(dump.contains(name) && !other.contains(name), "{other}");
    }
    let listed = lab
        .meltemi(&[
            "proxy-config",
            "secret",
            "deploy/istio-ingressgateway.istio-system",
        ])
        .ok();
    assert!(listed.contains("kubernetes://www"), "{listed}");
}

/// The same xDS, read by the proxy that Istio has there.
#[test]
fn a_stock_envoy_is_the_gateway() {
    let envoy = std::env::var("MELTEMI_ENVOY")
        .expect("MELTEMI_ENVOY names the stock Envoy; `cargo xtask test` fetches it");
    let mut images = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(images, "\"envoyproxy/envoy:*\": {envoy}").expect("a temporary file is writable");
    let lab = Lab::bookinfo(
        "ingress-envoy",
        &["--images", &images.path().to_string_lossy()],
    );
    let manifest = std::fs::read_to_string(sample("ingress-gateway/ingress-gateway.yaml"));
    let stock = "image: envoyproxy/envoy:v1.40.0\n        command: [pilot-agent, envoy]";
    lab.apply(
        &manifest
            .expect("our own sample")
            .replace("image: auto", stock),
    );
    let authority = Authority::new();
    let (client, key) = authority.issue("client.example.com", ExtendedKeyUsagePurpose::ClientAuth);
    lab.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n");
    lab.apply(&secret(
        "client",
        "outside",
        &[
            ("ca.crt", &authority.pem),
            ("tls.crt", &client),
            ("tls.key", &key),
        ],
    ));
    lab.apply(CLIENT);
    lab.apply_file(&istio("httpbin/httpbin.yaml"));
    for name in ["www", "api"] {
        let (chain, key) = authority.server(&format!("{name}.example.com"));
        let texts = [
            ("tls.crt", chain.as_str()),
            ("tls.key", &key),
            ("ca.crt", &authority.pem),
        ];
        lab.apply(&secret(name, "istio-system", &texts));
    }
    lab.apply(ROUTES);
    lab.wait_ready();
    let target = "deploy/istio-ingressgateway.istio-system";
    let version = lab.admin(target, "server_info")["version"].to_string();
    assert!(version.contains("1.40.0"), "{version}");
    let https = format!("::{INGRESS}:443");
    let get = |rest: &[&str]| {
        let (exit, status, _) = curl(&lab, &at_port(&https, rest));
        (exit, status)
    };
    let served = (0, "200".to_owned());
    eventually("HTTPS is served", || {
        (get(&["https://www.example.com/productpage"]) == served).then_some(())
    });
    let mine = [
        "--cert",
        "/etc/client/tls.crt",
        "--key",
        "/etc/client/tls.key",
    ];
    let api = "https://api.example.com/headers";
    assert_eq!(get(&[&mine[..], &[api]].concat()), served);
    assert_ne!(get(&[api]).0, 0, "without a certificate");
    let around = [
        "-H",
        "host: api.example.com",
        "https://www.example.com/headers",
    ];
    assert_eq!(get(&around).1, "421");
    let plain = format!("::{INGRESS}:80");
    let moved = curl(&lab, &at_port(&plain, &["http://moved.example.com/a"]));
    assert_eq!(moved.1, "301", "{moved:?}");
    let opaque = format!("::{INGRESS}:15443");
    let passed = curl(
        &lab,
        &at_port(&opaque, &["https://www.example.com/productpage"]),
    );
    assert_eq!((passed.0, passed.1.as_str()), (0, "200"), "{passed:?}");
    let status = lab.meltemi(&["proxy-status"]).ok();
    let own = status
        .lines()
        .find(|line| line.contains("istio-ingressgateway"));
    assert!(
        own.is_some_and(|line| !line.contains("STALE") && !line.contains("ERROR")),
        "{status}"
    );
}

/// Waits until the gateway's dump shows this certificate.
fn shown_certificate(lab: &Lab, chain: &str) {
    let line = chain.lines().nth(2).unwrap_or_default();
    eventually("the gateway has the new certificate", || {
        let listed = lab.meltemi(&[
            "proxy-config",
            "secret",
            "deploy/istio-ingressgateway.istio-system",
            "-o",
            "json",
        ]);
        let dump: Value = serde_json::from_str(&listed.stdout).ok()?;
        let secrets = dump["dynamicActiveSecrets"].as_array()?;
        let own = secrets
            .iter()
            .find(|secret| secret["name"] == "kubernetes://www")?;
        let shown = own["secret"]["tlsCertificate"]["certificateChain"]["inlineBytes"].as_str()?;
        decoded(shown).contains(line).then_some(())
    })
}

/// Base64 as text.
fn decoded(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.chars().filter_map(|c| ALPHABET.find(c));
    let bits: Vec<u8> = digits
        .flat_map(|digit| (0..6).rev().map(move |bit| u8::from(digit >> bit & 1 == 1)))
        .collect();
    let bytes = bits.chunks_exact(8);
    let bytes: Vec<u8> = bytes
        .map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
