//! `fds.sock`: commands that come with file descriptors.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Daemon, Refusal};
use crate::cluster::commands::Forward;
use crate::enter;
use crate::wire::{Handover, Outcome};

/// Requests are short; a longer one is refused.
const REQUEST_LIMIT_BYTES: usize = 256 * 1024;
/// Commands and connections at one time.
const LIMIT: usize = 512;

pub(super) async fn serve(listener: UnixListener, daemon: Arc<Daemon>) {
    let permits = Arc::new(Semaphore::new(LIMIT));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &daemon).await {
                tracing::debug!("a handover ended: {error:#}");
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: UnixStream, daemon: &Daemon) -> Result<()> {
    let (line, descriptors) = receive(&stream).await?;
    let outcome = match serde_json::from_slice(&line).context("unreadable request") {
        Ok(Handover::Exec {
            namespace,
            target,
            container,
            command,
            tty,
        }) => {
            let request = Exec {
                namespace,
                target,
                container,
                command,
                tty,
            };
            exec(daemon, request, descriptors, &mut stream).await
        }
        Ok(Handover::Forward {
            namespace,
            target,
            port,
        }) => forward(daemon, namespace, target, port, descriptors).await,
        Err(error) => Err(error),
    };
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failed {
        error: format!("{error:#}"),
    });
    let mut line = serde_json::to_vec(&outcome)?;
    line.push(b'\n');
    Ok(stream.write_all(&line).await?)
}

/// Reads one line and the descriptors that came with its first byte.
async fn receive(stream: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        anyhow::ensure!(line.len() < REQUEST_LIMIT_BYTES, "the request is too long");
        let (bytes, more) = stream
            .async_io(Interest::READABLE, || receive_some(stream))
            .await?;
        anyhow::ensure!(!bytes.is_empty(), "the connection ended within a request");
        line.extend(bytes);
        descriptors.extend(more);
    }
    Ok((line, descriptors))
}

fn receive_some(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut buffer)],
        &mut control,
        flags,
    )?;
    buffer.truncate(received.bytes);
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors.collect::<Vec<_>>()),
            _ => None,
        })
        .flatten();
    Ok((buffer, descriptors.collect()))
}

struct Exec {
    namespace: String,
    target: String,
    container: Option<String>,
    command: Vec<String>,
    tty: bool,
}

/// Runs a command in a container with the caller's descriptors; it ends when the caller goes away.
async fn exec(
    daemon: &Daemon,
    request: Exec,
    descriptors: Vec<OwnedFd>,
    caller: &mut UnixStream,
) -> Result<Outcome> {
    let Exec {
        namespace,
        target,
        container,
        command,
        tty,
    } = request;
    let target = daemon
        .target(namespace, target, container)
        .await
        .map_err(refused)?;
    let pid = target.shared.running(&target.container)?;
    let entrance = target
        .shared
        .exec_entrance(&target.container, pid, command, tty)?;
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|given| anyhow::anyhow!("exec needs three descriptors and got {}", given.len()))?;
    let mut process = enter::exec_command(&target.shared.directory, &entrance)?;
    process.stdin(stdin).stdout(stdout).stderr(stderr);
    let child = target
        .shared
        .machine
        .children
        .spawn(&mut process)
        .context("cannot start a process")?;
    // Closes this side's copies: a reader of the command's output must see its end.
    drop(process);
    let mut exit = child.exit;
    let ended = tokio::select! {
        ended = &mut exit => ended,
        () = hung_up(caller) => {
            // It may have ended by itself a moment ago.
            kill(Pid::from_raw(child.pid), Signal::SIGHUP).ok();
            kill(Pid::from_raw(child.pid), Signal::SIGKILL).ok();
            exit.await
        }
    };
    Ok(Outcome::Exited {
        status: ended?.code,
    })
}

async fn hung_up(caller: &UnixStream) {
    let mut byte = [0];
    loop {
        let ready = caller.readable().await;
        match caller.try_read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_ok() => {}
            Ok(0) | Err(_) => return,
            // Nothing is expected; a byte means nothing.
            Ok(_) => {}
        }
    }
}

/// Joins the caller's socket to a port of a Service or pod.
async fn forward(
    daemon: &Daemon,
    namespace: String,
    target: String,
    port: u16,
    descriptors: Vec<OwnedFd>,
) -> Result<Outcome> {
    let to = daemon
        .call(move |cluster| cluster.forward_target(&namespace, &target, port))
        .await
        .map_err(refused)??;
    let caller = descriptors
        .into_iter()
        .next()
        .context("forward needs a descriptor")?;
    // Any stream socket can be read and written; only its kind of name differs.
    let caller = StdStream::from(caller);
    caller.set_nonblocking(true)?;
    let mut caller = UnixStream::from_std(caller)?;
    let mut upstream = match to {
        Forward::Pod(network, port) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let stream = super::dial(network, address).await;
            stream.with_context(|| format!("cannot connect to port {port} of the pod"))?
        }
        Forward::Node(address) => {
            let stream = TcpStream::connect(SocketAddr::V4(address));
            tokio::time::timeout(super::DIAL_TIMEOUT, stream)
                .await
                .with_context(|| format!("{address} does not answer"))?
                .with_context(|| format!("cannot connect to {address}"))?
        }
    };
    tokio::spawn(async move {
        if let Err(error) = tokio::io::copy_bidirectional(&mut caller, &mut upstream).await {
            tracing::debug!(%error, "a forwarded connection ended");
        }
    });
    Ok(Outcome::Connected)
}

fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow::anyhow!(refusal.1)
}
