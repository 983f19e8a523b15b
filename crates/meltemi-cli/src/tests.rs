use serde_json::{Value, json};

use crate::fake::Fake;

const DEPLOYMENT: &str = "
# a comment may go
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { ports: [{ port: 80 }] }
---
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, annotations: { answer: \"yes\", on: \"on\", n: \"0x1f\", t: \"12:30:45\", empty: \"\", tilde: \"~\", y: \"y\" } }
spec: { selector: { matchLabels: { app: web } }, template: { metadata: { labels: { app: web } }, spec: { containers: [{ name: web, image: web, args: [\"a: b\", \"multi\\nline\\n\"] }] } } }
";

#[test]
fn kube_inject_reads_writes_and_reports() {
    let fake = Fake::default();
    let once = fake.run_with(DEPLOYMENT, &["kube-inject", "-f", "-"]);
    assert_eq!(
        (once.status, once.stderr.as_str()),
        (0, "Deployment default/web: injected\n")
    );
    let documents: Vec<Value> = serde_saphyr::from_multiple(&once.stdout).unwrap();
    let before: Vec<Value> = serde_saphyr::from_multiple(DEPLOYMENT).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(documents[0], before[0]);
    assert_eq!(documents[1]["metadata"], before[1]["metadata"]);
    assert_eq!(
        documents[1].pointer("/spec/template/spec/containers"),
        before[1].pointer("/spec/template/spec/containers")
    );
    let twice = fake.run_with(&once.stdout, &["kube-inject", "-f", "-"]);
    assert_eq!(twice.stdout, once.stdout);
}

/// kubectl reads YAML 1.1, in which these words are no strings unless quoted.
#[test]
fn words_that_old_yaml_takes_for_other_things_are_quoted() {
    let text = Fake::default()
        .run_with(DEPLOYMENT, &["kube-inject", "-f", "-"])
        .stdout;
    for line in [
        "answer: \"yes\"",
        "\"on\": \"on\"",
        "\"n\": \"0x1f\"",
        "empty: \"\"",
        "tilde: \"~\"",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn kube_inject_prints_nothing_when_it_must_refuse() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations: {sidecar.istio.io/proxyCPU: much}\nspec: {containers: [{name: c}]}\n";
    let output = Fake::default().run_with(pod, &["kube-inject", "-f", "-"]);
    assert_eq!((output.status, output.stdout.as_str()), (65, ""));
    assert!(output.stderr.contains("IST0125"), "{}", output.stderr);
    assert!(
        output
            .stderr
            .ends_with("Error: 1 of 1 objects cannot be injected; nothing is printed\n"),
        "{}",
        output.stderr
    );
    let broken = Fake::default().run_with("a: [", &["kube-inject", "-f", "-"]);
    assert_eq!(broken.status, 65);
    let missing = Fake::default().run(&["kube-inject", "-f", "/nonexistent.yaml"]);
    assert_eq!(missing.status, 65);
    assert!(
        missing
            .stderr
            .starts_with("Error: reading /nonexistent.yaml: "),
        "{}",
        missing.stderr
    );
}

#[test]
fn version_counts_the_data_plane() {
    let mesh = Fake::default().answer("istiod GET /version", &json!({"version": "0.2.0"})).answer(
        "istiod GET /debug/syncz",
        &json!([
            {"proxy": "a.default", "istio_version": "0.1.0"}, {"proxy": "b.default", "istio_version": "0.2.0"},
            {"proxy": "c.default", "istio_version": "0.2.0"}
        ]),
    );
    let client = env!("CARGO_PKG_VERSION");
    assert_eq!(
        mesh.run(&["version"]).stdout,
        format!(
            "client version: {client}\ncontrol plane version: 0.2.0\ndata plane version: 0.1.0 (1 proxy), 0.2.0 (2 proxies)\n"
        )
    );
    assert_eq!(
        mesh.run(&["version", "--short", "--remote=false"]).stdout,
        format!("{client}\n")
    );
    let json: Value = serde_json::from_str(&mesh.run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["meshVersion"][0]["Info"]["version"], "0.2.0");
    assert_eq!(
        json["dataPlaneVersion"][2],
        json!({"ID": "c.default", "IstioVersion": "0.2.0"})
    );
    let alone = Fake {
        unreachable: true,
        ..Fake::default()
    }
    .run(&["version"]);
    assert_eq!(
        (alone.status, alone.stdout),
        (0, format!("client version: {client}\n"))
    );
    assert_eq!(
        alone.stderr,
        "The control plane cannot be asked: no lab is running\n"
    );
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = Fake::default().run(&["completion", shell]);
        assert!(output.stdout.contains("tls-check"), "{shell}");
    }
}

#[test]
fn analyze_finds_issues_and_fails_by_severity() {
    let folder = tempfile::tempdir().unwrap();
    let good = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    std::fs::write(folder.path().join("good.yaml"), good).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not: [a manifest").unwrap();
    let path = folder.path().to_str().unwrap();
    let fine = Fake::default().run(&["analyze", "-f", path]);
    assert_eq!(
        (fine.status, fine.stdout.as_str()),
        (0, ""),
        "{}",
        fine.stderr
    );
    assert!(
        fine.stderr
            .contains("No validation issues found when analyzing namespace: default.")
    );

    std::fs::write(
        folder.path().join("worse.yaml"),
        good.replace("STRICT", "STRICTER"),
    )
    .unwrap();
    let output = Fake::default().run(&["analyze", path]);
    assert_eq!(output.status, 79, "{}", output.stdout);
    assert!(output.stdout.starts_with("error "), "{}", output.stdout);
    assert!(output.stdout.contains("worse.yaml:4:"), "{}", output.stdout);
    assert!(
        output
            .stderr
            .ends_with("Analyzers found issues when analyzing namespace: default.\n"),
        "{}",
        output.stderr
    );
    let json = Fake::default().run(&["analyze", path, "-o", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json[0]["level"], "Error");
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    assert_eq!(Fake::default().run(&["analyze", empty]).status, 64);
    assert_eq!(Fake::default().run(&["analyze", "/nonexistent"]).status, 65);
}

#[test]
fn files_are_judged_as_if_they_were_applied_to_the_running_mesh() {
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}})
    };
    let route = |name: &str, to: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
            "spec": {"hosts": [to], "http": [{"route": [{"destination": {"host": to}}]}]}})
    };
    let mut mesh = Fake::default();
    let items = json!([service("reviews"), route("broken", "gone")]);
    mesh.objects = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let judge = |object: &Value, flags: &[&str]| {
        let line = [&["analyze", "-f", "-"], flags].concat();
        mesh.run_with(&object.to_string(), &line)
    };
    let joined = judge(&route("new", "reviews"), &[]);
    assert_eq!((joined.status, joined.stdout.as_str()), (0, ""));
    let alone = judge(&route("new", "reviews"), &["--use-kube=false"]);
    assert!(alone.stdout.contains("IST0101"), "{}", alone.stdout);
    let renamed = judge(&route("new", "gone"), &["-k"]);
    let both = renamed.stdout;
    assert!(
        both.contains("IST0109 VirtualService default/broken"),
        "{both}"
    );
    assert!(
        both.contains("IST0101 VirtualService default/new"),
        "{both}"
    );
    assert!(
        !both.contains("IST0101 VirtualService default/broken"),
        "{both}"
    );
}

#[test]
fn every_command_shows_examples() {
    #[derive(clap::Parser)]
    struct Program {
        #[command(subcommand)]
        command: crate::Command,
    }
    fn check(command: &clap::Command) {
        if command.has_subcommands() {
            command.get_subcommands().for_each(check);
        } else {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(!help.is_empty(), "{}", command.get_name());
            for flag in command
                .get_arguments()
                .filter(|arg| arg.get_long().is_some())
            {
                let (name, of) = (flag.get_id(), command.get_name());
                let is_own = !["help", "version"].contains(&name.as_str());
                assert!(
                    !is_own || flag.get_help().is_some() || name == "output",
                    "{of} --{name}"
                );
            }
        }
    }
    let program = <Program as clap::CommandFactory>::command();
    program.clone().debug_assert();
    check(&program);
}

#[test]
fn analyze_without_files_asks_the_running_mesh() {
    let finding = |namespace: &str, file: &str| {
        json!({
            "code": "IST0101", "severity": "Error", "message": "referenced host not found", "field": "spec.http[0]",
            "object": {"kind": "VirtualService", "namespace": namespace, "name": "a"},
            "location": {"file": file, "line": 3, "column": 1}
        })
    };
    let answer = json!([
        finding("default", "/etc/x/virtualservice.default.a.json"),
        finding("shop", "/etc/x/mine.yaml"),
    ]);
    let mesh = || Fake::default().answer("istiod GET /debug/diagnostics", &answer);
    let own = mesh().run(&["analyze"]);
    assert_eq!(
        (own.status, own.stdout.as_str()),
        (
            79,
            "error IST0101 VirtualService default/a: spec.http[0]: referenced host not found\n"
        )
    );
    let all = mesh().run(&["analyze", "-A"]).stdout;
    assert!(
        all.contains("default/a") && all.contains("/etc/x/mine.yaml:3:1"),
        "{all}"
    );
    let quiet = mesh().run(&["analyze", "-n", "other"]);
    assert_eq!((quiet.status, quiet.stdout.as_str()), (0, ""));
}

/// As Kubernetes reads: `0644` is octal, in a manifest of Istio's samples too.
#[test]
fn modes_of_files_are_octal() {
    let pod = "apiVersion: v1
kind: Pod
metadata: { name: p }
spec:
  containers: [{ name: c, image: i }]
  volumes: [{ name: v, configMap: { name: m, defaultMode: 0644 } }]
";
    let output = Fake::default().run_with(pod, &["kube-inject", "-f", "-"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("defaultMode: 420"),
        "{}",
        output.stdout
    );
}

#[test]
fn kube_inject_reads_istios_files_and_writes_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let values = "global: { proxy: { image: mine/proxy:7, tracer: none } }\n";
    std::fs::write(path("values.yaml"), values).unwrap();
    let line = [
        "kube-inject",
        "-f",
        "-",
        "-o",
        &path("out.yaml"),
        "--valuesFile",
    ];
    let values = path("values.yaml");
    let line = [&line[..], &[&values, "--revision", "canary"]].concat();
    let output = Fake::default().run_with(DEPLOYMENT, &line);
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (0, ""),
        "{}",
        output.stderr
    );
    assert!(
        output
            .stderr
            .contains("values.yaml: not used: global.proxy.tracer")
    );
    let written = std::fs::read_to_string(path("out.yaml")).unwrap();
    assert!(
        written.contains("mine/proxy:7") && written.contains("canary"),
        "{written}"
    );
}

#[test]
fn manifest_generate_prints_objects_that_its_values_decide() {
    let fake = Fake::default();
    let file = "global: {hub: example.test/mesh}\npilot: {traceSampling: 1}\n";
    let generate = ["manifest", "generate", "-f", "-", "--set"];
    let tag = ["global.tag=7", "--revision", "canary"];
    let output = fake.run_with(file, &[&generate[..], &tag[..]].concat());
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stderr.contains("pilot.traceSampling: not supported"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&output.stdout).unwrap();
    let mut objects = objects.iter();
    let deployment = objects.find(|object| object["kind"] == "Deployment");
    let deployment = deployment.unwrap();
    assert_eq!(deployment["metadata"]["name"], "istiod-canary");
    let image = deployment.pointer("/spec/template/spec/containers/0/image");
    assert_eq!(image.unwrap(), "example.test/mesh/pilot:7");

    let wrong = fake.run(&["manifest", "generate", "--set", "global.tga=7"]);
    assert_eq!((wrong.status, wrong.stdout.as_str()), (65, ""));
    assert!(
        wrong.stderr.contains("did you mean \"tag\"?"),
        "{}",
        wrong.stderr
    );
}

/// What an installation says of injection is what the injector reads: nothing of it is left over.
#[test]
fn kube_inject_reads_all_that_an_installation_says() {
    let fake = Fake::default();
    let output = fake.run(&["manifest", "generate", "--set", "global.tag=7"]);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&output.stdout).unwrap();
    let mut objects = objects.iter();
    let injector = objects
        .find(|object| object["metadata"]["name"] == "istio-sidecar-injector")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |key: &str| {
        let path = folder.path().join(key);
        std::fs::write(&path, injector["data"][key].as_str().unwrap()).unwrap();
        path.display().to_string()
    };
    let (config, values) = (file("config"), file("values"));
    let inject = ["kube-inject", "-f", "-", "--injectConfigFile", &config];
    let output = fake.run_with(
        DEPLOYMENT,
        &[&inject[..], &["--valuesFile", &values]].concat(),
    );
    assert_eq!(output.stderr, "Deployment default/web: injected\n");
    assert!(output.stdout.contains("image: meltemi/proxyv2:7"));
}
