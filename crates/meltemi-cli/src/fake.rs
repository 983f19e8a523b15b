//! A mesh of recorded answers.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use futures_util::future::BoxFuture;
use meltemi_install::{Awaited, Name};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{Access, AccessError, Answer, ClusterObjects, Command, Io, Method, Pod, Response, run};

#[derive(Clone, Debug, Default)]
pub(crate) struct Fake {
    pub(crate) pods: Vec<Pod>,
    /// Instances of the control plane; `istiod` if none is named.
    pub(crate) istiods: Vec<String>,
    /// `"<pod> GET /path"`.
    pub(crate) answers: BTreeMap<String, String>,
    pub(crate) unreachable: bool,
    /// Selectors of Services in the default namespace.
    pub(crate) services: BTreeMap<String, BTreeMap<String, String>>,
    /// A manifest with the mesh's objects.
    pub(crate) objects: String,
    /// A cluster to install into, of objects by name.
    pub(crate) cluster: Option<FakeCluster>,
}

/// Objects by their [`Name`], as it is printed, and what was deleted, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeCluster {
    pub(crate) objects: Arc<Mutex<BTreeMap<String, Value>>>,
    pub(crate) deleted: Arc<Mutex<Vec<String>>>,
    /// A resource that may not be written.
    pub(crate) forbidden: String,
    /// Why whatever is waited for is not ready.
    pub(crate) not_ready: String,
}

pub(crate) struct Output {
    pub(crate) status: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fake {
    pub(crate) fn pod(mut self, name: &str, address: &str, containers: &[&str]) -> Self {
        self.pods.push(Pod {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            address: address.to_owned(),
            containers: containers.iter().map(|name| (*name).to_owned()).collect(),
            ready: true,
            ..Pod::default()
        });
        self
    }

    pub(crate) fn answer(mut self, request: &str, json: &Value) -> Self {
        self.answers.insert(request.to_owned(), json.to_string());
        self
    }

    pub(crate) fn service(mut self, name: &str, label: &str, value: &str) -> Self {
        let selector = [(label.to_owned(), value.to_owned())].into();
        self.services.insert(name.to_owned(), selector);
        self
    }

    fn look_up(&self, who: &str, method: Method, path: &str) -> Result<Response, AccessError> {
        if self.unreachable {
            return Err(AccessError::Unreachable {
                message: "no lab is running".to_owned(),
                hint: "Start one: meltemi lab up".to_owned(),
            });
        }
        let method = match method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let found = self.answers.get(&format!("{who} {method} {path}"));
        Ok(Response {
            status: if found.is_some() { 200 } else { 404 },
            body: found
                .cloned()
                .unwrap_or_else(|| format!("no {path}"))
                .into_bytes(),
        })
    }

    /// Runs a command line.
    pub(crate) fn run(&self, line: &[&str]) -> Output {
        self.run_with("", line)
    }

    pub(crate) fn run_with(&self, stdin: &str, line: &[&str]) -> Output {
        #[derive(clap::Parser)]
        #[command(name = "meltemi")]
        struct Program {
            #[command(subcommand)]
            command: Command,
        }
        let words = std::iter::once("meltemi").chain(line.iter().copied());
        let program = Program::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut stdout, mut stderr, mut stdin) = (Vec::new(), Vec::new(), stdin.as_bytes());
        let mut io = Io {
            stdin: &mut stdin,
            stdout: &mut stdout,
            stderr: &mut stderr,
            color: false,
            program: <Program as clap::CommandFactory>::command(),
            called: "meltemi".to_owned(),
            now: "2026-06-01T12:00:00Z".parse().unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let status = runtime.block_on(run(program.command, self, &mut io));
        Output {
            status,
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

impl Access for Fake {
    fn pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, AccessError>> {
        let pods = self.look_up("", Method::Get, "").map(|_| self.pods.clone());
        Box::pin(ready(pods))
    }

    fn pod_http<'a>(
        &'a self,
        pod: &'a str,
        _namespace: &'a str,
        port: u16,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        assert_eq!(port, 15000);
        Box::pin(ready(self.look_up(pod, method, path)))
    }

    fn istiods_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Answer>, AccessError>> {
        let names = match &self.istiods[..] {
            [] => vec!["istiod".to_owned()],
            names => names.to_vec(),
        };
        let ask = |name: String| {
            let answer = self.look_up(&name, method, path);
            (name, answer)
        };
        Box::pin(ready(Ok(names.into_iter().map(ask).collect())))
    }

    fn service_selector<'a>(
        &'a self,
        service: &'a str,
        _namespace: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, String>>, AccessError>> {
        Box::pin(ready(Ok(self.services.get(service).cloned())))
    }

    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(ready(Ok(self.objects.clone())))
    }

    fn cluster_objects(&self) -> Option<&dyn ClusterObjects> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster)
    }
}

impl FakeCluster {
    pub(crate) fn put(&self, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let (kind, namespace) = (object["kind"].as_str().unwrap(), text("namespace"));
        let separator = if namespace.is_empty() { "" } else { "/" };
        let name = format!("{kind} {namespace}{separator}{}", text("name"));
        self.objects.lock().insert(name, object);
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }
}

impl ClusterObjects for FakeCluster {
    fn control_plane_namespace(&self) -> &str {
        "istio-system"
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Value>, AccessError>> {
        let found = self.objects.lock().get(&name.to_string()).cloned();
        Box::pin(ready(Ok(found)))
    }

    fn server_version(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(ready(Ok("v1.36.3".to_owned())))
    }

    /// Reviews are answered, pods are injected, and other objects are taken; nothing is made.
    fn create<'a>(
        &'a self,
        object: &'a Value,
        _is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>> {
        let mut made = object.clone();
        if object["kind"] == "SelfSubjectAccessReview" {
            let resource = &object["spec"]["resourceAttributes"]["resource"];
            made["status"]["allowed"] = (*resource != *self.forbidden).into();
        } else if object["kind"] == "Pod" {
            made["spec"]["initContainers"] = serde_json::json!([{"name": "istio-proxy"}]);
        }
        Box::pin(ready(Ok(made)))
    }

    fn labelled<'a>(
        &'a self,
        _api_version: &'static str,
        kind: &'static str,
        labels: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, AccessError>> {
        let objects = self.objects.lock();
        let is_found = |object: &&Value| {
            let of = |name: &str| &object["metadata"]["labels"][name];
            let has = |label: &str| match label.split_once('=') {
                Some((name, value)) => *of(name) == value,
                None => label.is_empty() || !of(label).is_null(),
            };
            object["kind"] == kind && labels.split(',').all(has)
        };
        let found = objects.values().filter(is_found).cloned().collect();
        Box::pin(ready(Ok(found)))
    }

    fn apply<'a>(
        &'a self,
        name: &'a Name,
        content: &'a Value,
        is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>> {
        let namespace = Name::namespace(&name.namespace).to_string();
        let mut objects = self.objects.lock();
        if !name.namespace.is_empty() && !objects.contains_key(&namespace) {
            let message = format!("{namespace} not found");
            return Box::pin(ready(Err(AccessError::Failed { message })));
        }
        if !is_dry_run {
            objects.insert(name.to_string(), content.clone());
        }
        Box::pin(ready(Ok(content.clone())))
    }

    fn delete<'a>(
        &'a self,
        name: &'a Name,
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<(), AccessError>> {
        self.objects.lock().remove(&name.to_string());
        self.deleted.lock().push(name.to_string());
        Box::pin(ready(Ok(())))
    }

    fn wait<'a>(
        &'a self,
        objects: &'a [(Name, Awaited)],
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<(Name, String)>, AccessError>> {
        let objects = objects.iter();
        let rollouts = objects.filter(|(_, awaited)| *awaited == Awaited::RolledOut);
        let missing = rollouts.map(|(name, _)| (name.clone(), self.not_ready.clone()));
        let missing = missing.filter(|(_, reason)| !reason.is_empty());
        Box::pin(ready(Ok(missing.collect())))
    }
}
