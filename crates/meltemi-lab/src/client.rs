//! The commands' side of the sockets in [`crate::wire`].

use std::io::{self, BufRead, BufReader, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::paths;
use crate::wire::{
    Failure, Handover, Kill, Mark, Outcome, Progress, Report, Restart, Revision, Scale, Status,
    Validation, Watch,
};

/// The largest answer read whole; logs and captures are streamed instead.
const ANSWER_LIMIT_BYTES: usize = 256 << 20;

/// A handle on one lab; it holds no connection.
#[derive(Debug, Clone)]
pub struct LabClient {
    name: String,
    run_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no lab \"{0}\" runs here; start it with `meltemi lab up`")]
    NotUp(String),
    #[error("the lab refuses its socket: it belongs to another user")]
    Forbidden,
    #[error("the lab's socket failed")]
    Socket(#[source] io::Error),
    #[error("the lab's answer broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the lab's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

impl LabClient {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            run_dir: paths::run_dir(name),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the lab's sockets and files; it exists as long as the lab.
    pub fn run_dir(&self) -> &std::path::Path {
        &self.run_dir
    }

    pub async fn is_up(&self) -> bool {
        self.status().await.is_ok()
    }

    /// # Errors
    /// The lab is not there or fails; so for every method below.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/status").await
    }

    pub async fn progress(&self) -> Result<Progress, ClientError> {
        self.get("/progress").await
    }

    /// Applies the documents of one file; `file` names it in diagnostics.
    pub async fn apply(
        &self,
        namespace: &str,
        file: &str,
        text: String,
        validate: Validation,
    ) -> Result<Report, ClientError> {
        let query = query(&[
            ("namespace", namespace),
            ("file", file),
            ("validate", validate.as_str()),
        ]);
        self.send(Method::POST, &format!("/apply?{query}"), text.into())
            .await
    }

    /// What [`Self::apply`] would answer; nothing is changed.
    pub async fn judge(
        &self,
        namespace: &str,
        file: &str,
        text: String,
        validate: Validation,
    ) -> Result<Report, ClientError> {
        let query = query(&[
            ("namespace", namespace),
            ("file", file),
            ("dry_run", "true"),
            ("validate", validate.as_str()),
        ]);
        self.send(Method::POST, &format!("/apply?{query}"), text.into())
            .await
    }

    /// As [`Self::apply`], but what is there already is refused.
    pub async fn create(
        &self,
        namespace: &str,
        file: &str,
        text: String,
        validate: Validation,
    ) -> Result<Report, ClientError> {
        let query = query(&[
            ("namespace", namespace),
            ("file", file),
            ("create", "true"),
            ("validate", validate.as_str()),
        ]);
        self.send(Method::POST, &format!("/apply?{query}"), text.into())
            .await
    }

    /// Deletes the objects that the documents of one file name; a grace period in seconds counts for pods.
    pub async fn delete(
        &self,
        namespace: &str,
        file: &str,
        text: String,
        grace: Option<u64>,
    ) -> Result<Report, ClientError> {
        let grace = grace.map(|seconds| seconds.to_string());
        let mut pairs = vec![("namespace", namespace), ("file", file)];
        pairs.extend(grace.as_deref().map(|seconds| ("grace", seconds)));
        let query = query(&pairs);
        self.send(Method::POST, &format!("/delete?{query}"), text.into())
            .await
    }

    pub async fn delete_object(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        grace: Option<u64>,
    ) -> Result<Report, ClientError> {
        let grace = grace.map(|seconds| seconds.to_string());
        let mut pairs = vec![("namespace", namespace)];
        pairs.extend(grace.as_deref().map(|seconds| ("grace", seconds)));
        let query = query(&pairs);
        self.send(
            Method::DELETE,
            &format!("/objects/{kind}/{name}?{query}"),
            Bytes::new(),
        )
        .await
    }

    /// Objects of one kind (its Kubernetes name, such as `VirtualService`; `Event`, too), in one namespace or in all.
    pub async fn objects(
        &self,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, ClientError> {
        Ok(self.objects_at(kind, namespace).await?.0)
    }

    /// As [`Self::objects`], with the revision for [`Self::changed`].
    pub async fn objects_at(
        &self,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<(Vec<Value>, u64), ClientError> {
        let query = namespace.map_or_else(String::new, |namespace| {
            format!("?{}", query(&[("namespace", namespace)]))
        });
        let list: Value = self.get(&format!("/objects/{kind}{query}")).await?;
        let revision = list["metadata"]["resourceVersion"].as_str();
        let revision = revision.and_then(|text| text.parse().ok());
        Ok((
            list["items"].as_array().cloned().unwrap_or_default(),
            revision.unwrap_or_default(),
        ))
    }

    /// The containers of the pod that a target stands for.
    pub async fn containers(
        &self,
        namespace: &str,
        target: &str,
    ) -> Result<Vec<String>, ClientError> {
        let query = query(&[("namespace", namespace), ("pod", target)]);
        self.get(&format!("/containers?{query}")).await
    }

    /// Waits until the lab's objects are newer than `after`; may return early without a change.
    pub async fn changed(&self, after: u64) -> Result<u64, ClientError> {
        let answer: Revision = self.get(&format!("/changes?after={after}")).await?;
        Ok(answer.revision)
    }

    /// Fails where [`Handover::Forward`] would lead nowhere.
    pub async fn can_forward(
        &self,
        namespace: &str,
        target: &str,
        port: u16,
    ) -> Result<Value, ClientError> {
        let port = port.to_string();
        let query = query(&[
            ("namespace", namespace),
            ("target", target),
            ("port", &port),
        ]);
        self.get(&format!("/forward?{query}")).await
    }

    /// Labels or annotates an object.
    pub async fn mark(&self, mark: &Mark) -> Result<Report, ClientError> {
        self.post("/mark", mark).await
    }

    pub async fn restart(&self, restart: &Restart) -> Result<Report, ClientError> {
        self.post("/restart", restart).await
    }

    pub async fn scale(&self, scale: &Scale) -> Result<Report, ClientError> {
        self.post("/scale", scale).await
    }

    pub async fn kill(&self, kill: &Kill) -> Result<Value, ClientError> {
        self.post("/kill", kill).await
    }

    /// Has files and folders applied again whenever they change.
    pub async fn watch(&self, watch: &Watch) -> Result<Value, ClientError> {
        self.post("/watch", watch).await
    }

    pub async fn down(&self) -> Result<Value, ClientError> {
        self.send(Method::POST, "/down", Bytes::new()).await
    }

    /// A port on the loopback of a pod, such as the proxy's admin port.
    pub async fn pod_http(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let path = path.trim_start_matches('/');
        self.whole(
            method,
            &format!("/pods/{namespace}/{pod}/proxy/{port}/{path}"),
        )
        .await
    }

    /// The monitoring port of the control plane.
    pub async fn istiod_http(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        self.whole(method, &format!("/istiod/{}", path.trim_start_matches('/')))
            .await
    }

    /// A container's log or a capture, to be read as it comes.
    pub async fn stream(&self, path: &str) -> Result<Incoming, ClientError> {
        let response = self.request(Method::GET, path, Bytes::new()).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(refusal(response).await)
    }

    /// Hands descriptors over and waits for the outcome. Blocks: call it from a thread that may.
    pub fn hand_over(
        &self,
        handover: &Handover,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Outcome, ClientError> {
        self.check_folder()?;
        let stream = BlockingStream::connect(self.run_dir.join("fds.sock"))
            .map_err(|error| self.socket_error(error))?;
        let mut line = serde_json::to_vec(handover).map_err(ClientError::Unreadable)?;
        line.push(b'\n');
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&line)],
            &rights,
            MsgFlags::empty(),
            None,
        );
        let sent = sent.map_err(|error| ClientError::Socket(error.into()))?;
        if let Some(rest) = line.get(sent..).filter(|rest| !rest.is_empty()) {
            io::Write::write_all(&mut &stream, rest).map_err(ClientError::Socket)?;
        }
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .map_err(ClientError::Socket)?;
        if answer.is_empty() {
            return Err(ClientError::Refused(
                "the lab ended before the command did".to_owned(),
            ));
        }
        serde_json::from_str(&answer).map_err(ClientError::Unreadable)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Unreadable)?;
        self.send(Method::POST, path, body.into()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.request(method, path, body).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        serde_json::from_slice(&read(response.into_body()).await?).map_err(ClientError::Unreadable)
    }

    async fn whole(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.request(method, path, Bytes::new()).await?;
        Ok((response.status(), read(response.into_body()).await?))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(Box::new(error));
        self.check_folder()?;
        let stream = UnixStream::connect(self.run_dir.join("lab.sock"))
            .await
            .map_err(|error| self.socket_error(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lab")
            .header("content-type", "application/json")
            .body(Full::new(body));
        let request = request.map_err(|error| ClientError::Broken(Box::new(error)))?;
        sender.send_request(request).await.map_err(broken)
    }

    /// Sockets in a folder that another user could have made are not spoken to.
    fn check_folder(&self) -> Result<(), ClientError> {
        let folder = self.run_dir.parent().unwrap_or(&self.run_dir);
        match paths::is_private(folder) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ClientError::Forbidden),
            Err(error) => Err(self.socket_error(error)),
        }
    }

    fn socket_error(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotUp(self.name.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden,
            _ => ClientError::Socket(error),
        }
    }
}

async fn read(body: Incoming) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, ANSWER_LIMIT_BYTES)
        .collect()
        .await
        .map_err(ClientError::Broken)?;
    Ok(collected.to_bytes())
}

/// The reason that the lab gives for an error status.
async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    match read(response.into_body()).await {
        Ok(body) => match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => ClientError::Refused(failure.error),
            Err(_not_json) => {
                ClientError::Refused(format!("{status}: {}", String::from_utf8_lossy(&body)))
            }
        },
        Err(error) => error,
    }
}

/// A query string; values are percent-encoded but for characters that every query may hold.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let encode = |value: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~/".contains(&c);
        value
            .bytes()
            .map(|c| {
                if plain(c) {
                    char::from(c).to_string()
                } else {
                    format!("%{c:02X}")
                }
            })
            .collect::<String>()
    };
    pairs
        .iter()
        .map(|(key, value)| format!("{key}={}", encode(value)))
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            query(&[("file", "a b&c.yaml"), ("tail", "5")]),
            "file=a%20b%26c.yaml&tail=5"
        );
    }
}
