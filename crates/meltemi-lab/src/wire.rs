//! What the commands and the supervisor say to each other, over two unix sockets in the lab's run folder.
//!
//! `lab.sock` speaks HTTP with JSON bodies:
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`] |
//! | `GET /progress` | [`Progress`] |
//! | `GET /changes?after=N` | [`Revision`], as soon as the objects are newer than revision N |
//! | `POST /apply?namespace=NS&file=NAME[&dry_run=true][&create=true][&validate=strict]`, YAML body | [`Report`]; see [`Validation`] |
//! | `POST /delete?namespace=NS&file=NAME[&grace=SECONDS]`, YAML body | [`Report`] |
//! | `DELETE /objects/{kind}/{name}?namespace=NS[&grace=SECONDS]` | [`Report`] |
//! | `GET /objects/{kind}[?namespace=NS]` | `{"items": [...]}`, Kubernetes objects as JSON with their status; `Event` is a kind, too |
//! | `GET /containers?namespace=NS&pod=POD` | the names of a target's containers |
//! | `GET /forward?namespace=NS&target=T&port=P` | `{}` where connections could be forwarded to |
//! | `POST /mark` | [`Mark`] in, [`Report`] out |
//! | `POST /restart` | [`Restart`] in, [`Report`] out |
//! | `POST /scale` | [`Scale`] in, [`Report`] out |
//! | `POST /kill` | [`Kill`] in, `{}` out |
//! | `GET /logs?namespace=NS&pod=POD&container=C[&tail=N][&since_millis=N][&previous=true][&follow=true]` | the log, streamed |
//! | `GET /capture?namespace=NS&pod=POD&millis=N` | a pcap, streamed; the response head leaves when the capture is bound |
//! | any method `/pods/{namespace}/{pod}/proxy/{port}/{path}` | the answer of that port on the pod's loopback |
//! | any method `/istiod/{path}` | the answer of the control plane's monitoring port |
//! | `POST /watch` | [`Watch`] in, `{}` out |
//! | `POST /down` | `{}`, then the lab ends |
//!
//! Errors are 4xx or 5xx with [`Failure`]. `fds.sock` takes one [`Handover`] as a line of JSON together with file
//! descriptors (`SCM_RIGHTS`), and answers with one [`Outcome`] as a line of JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use meltemi_core::Diagnostic;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    /// Process ids as the machine sees them.
    pub supervisor_pid: u32,
    pub control_plane_pid: Option<u32>,
    pub control_plane_ready: bool,
    pub control_plane_restarts: u32,
    /// The folder that the control plane watches; a file renamed into it is live configuration.
    pub config_dir: PathBuf,
    pub state_dir: PathBuf,
    /// Whether the lab runs in a user namespace, where the proxy is exempt by socket mark.
    pub rootless: bool,
    pub pods_ready: usize,
    pub pods_total: usize,
    /// Files and folders given with `-f` that are watched.
    pub watched: Vec<PathBuf>,
    /// Watched files with errors or warnings.
    pub faults: Vec<Fault>,
    /// `namespace/pod: reason` for each pod or owner that is not ready.
    pub waiting: Vec<String>,
    pub age_seconds: u64,
}

/// A watched file with errors or warnings. Of what was refused, the last good content is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub file: PathBuf,
    /// When it was first read so (RFC 3339).
    pub since: String,
    pub diagnostics: Vec<Diagnostic>,
}

/// How far everything that was asked for is from being ready.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    pub ready: bool,
    /// Of the objects that this is about.
    pub revision: u64,
    pub pods_ready: usize,
    pub pods_total: usize,
    /// `namespace/pod: reason` for each that is not.
    pub waiting: Vec<String>,
}

/// Moves with every change of an object.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Revision {
    pub revision: u64,
}

/// What becomes of a Kubernetes object with a field that its kind does not have. (One of Istio's kinds is always refused:
/// a misspelt policy protects nothing.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validation {
    /// It is refused.
    Strict,
    /// It is applied without the field, which is told.
    #[default]
    Warn,
    /// It is applied without the field.
    Ignore,
}

impl Validation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Warn => "warn",
            Self::Ignore => "ignore",
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub results: Vec<Change>,
    pub diagnostics: Vec<Diagnostic>,
    /// Documents that were refused; the others were applied.
    pub rejected: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    /// As kubectl prints it: `deployment.apps/reviews-v1`.
    pub object: String,
    pub namespace: String,
    /// `created`, `configured`, `unchanged`, `deleted`, `labeled`, `annotated`, `restarted`, `scaled`.
    pub action: String,
}

/// Which part of an object's metadata a [`Mark`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkField {
    Labels,
    Annotations,
}

impl MarkField {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }
}

/// Sets and removes labels or annotations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub field: MarkField,
    /// `None` removes the label or annotation.
    pub values: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restart {
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scale {
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub replicas: u32,
}

/// Ends a process with SIGKILL, for trying what happens then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kill {
    /// `control-plane`, `POD` or `deploy/NAME`.
    pub target: String,
    pub namespace: String,
    pub container: Option<String>,
    /// How long it stays down; 0 lets the supervisor restart it as it would after a crash.
    pub down_millis: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Handover {
    /// Comes with the descriptors of stdin, stdout and stderr; answered when the command has ended.
    Exec {
        namespace: String,
        target: String,
        container: Option<String>,
        command: Vec<String>,
        tty: bool,
    },
    /// Comes with a connected socket, which is joined to a Service's or pod's port; answered when the connection is made.
    Forward {
        namespace: String,
        target: String,
        port: u16,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Outcome {
    /// An exit status as a shell reports it: 128 + n after signal n.
    Exited {
        status: i32,
    },
    Connected,
    Failed {
        error: String,
    },
}

/// `POST /watch`: files and folders whose changes are applied from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    pub namespace: String,
    pub paths: Vec<PathBuf>,
}
