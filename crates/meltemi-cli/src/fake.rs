//! A mesh of recorded answers.

use std::collections::BTreeMap;
use std::future::ready;

use clap::Parser as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::{Access, AccessError, Command, Io, Method, Pod, Response, run};

#[derive(Clone, Debug, Default)]
pub(crate) struct Fake {
    pub(crate) pods: Vec<Pod>,
    /// `"<pod> GET /path"`; the control plane is the pod `istiod`.
    pub(crate) answers: BTreeMap<String, String>,
    pub(crate) unreachable: bool,
    /// Selectors of Services in the default namespace.
    pub(crate) services: BTreeMap<String, BTreeMap<String, String>>,
    /// A manifest with the mesh's objects.
    pub(crate) objects: String,
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

    fn istiod_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        Box::pin(ready(self.look_up("istiod", method, path)))
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
}
