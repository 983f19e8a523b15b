//! Commands that reach into pods.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use anstream::{eprintln, println};
use anyhow::{Context, bail};
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::selector::Selector;
use super::terminal::Terminal;
use super::{Namespace, duration};
use crate::client::{ClientError, LabClient, query};
use crate::wire::{self, Handover, Outcome};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab exec deploy/productpage-v1 -c productpage -- curl -s http://reviews:9080/reviews/0\n  \
                        meltemi lab exec -it ratings-v1-6f8b9c-x2k4p -- sh"
)]
pub(super) struct Exec {
    /// A pod's name, or TYPE/NAME of what owns it.
    target: String,
    /// The container; the pod's default one otherwise.
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The command talks to a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) async fn exec(client: &LabClient, options: &Exec) -> anyhow::Result<ExitCode> {
    let terminal = if options.tty { Terminal::open()? } else { None };
    if options.tty && terminal.is_none() {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let handover = Handover::Exec {
        namespace: options.namespace.namespace.clone(),
        target: options.target.clone(),
        container: options.container.clone(),
        command: options.command.clone(),
        tty: terminal.is_some(),
    };
    let outcome = match terminal {
        Some(terminal) => exec_in_terminal(client, handover, terminal, options.stdin).await?,
        None => exec_with_own_files(client, handover, options.stdin).await?,
    };
    match outcome {
        Outcome::Exited { status } => {
            if status != 0 {
                eprintln!("command terminated with exit code {status}");
            }
            Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
        }
        Outcome::Failed { error } => bail!(error),
        Outcome::Connected => bail!("the lab gave no exit status"),
    }
}

async fn exec_in_terminal(
    client: &LabClient,
    handover: Handover,
    terminal: Terminal,
    with_stdin: bool,
) -> anyhow::Result<Outcome> {
    let joined = terminal.join(with_stdin)?;
    let client = client.clone();
    let (outcome, terminal) = tokio::task::spawn_blocking(move || {
        let far = terminal.far();
        (client.hand_over(&handover, &[far, far, far]), terminal)
    })
    .await?;
    tokio::task::spawn_blocking(move || joined.leave(terminal)).await?;
    Ok(outcome?)
}

async fn exec_with_own_files(
    client: &LabClient,
    handover: Handover,
    with_stdin: bool,
) -> anyhow::Result<Outcome> {
    let client = client.clone();
    tokio::task::spawn_blocking(move || {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let nothing = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
        let input = if with_stdin {
            stdin.as_fd()
        } else {
            nothing.as_fd()
        };
        Ok(client.hand_over(&handover, &[input, stdout.as_fd(), stderr.as_fd()])?)
    })
    .await?
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab logs deploy/productpage-v1 -c istio-proxy --tail 20\n  meltemi lab logs -f curl-6b7f9-x2k4p"
)]
pub(super) struct Logs {
    /// A pod's name, or TYPE/NAME of what owns it.
    #[arg(required_unless_present = "selector")]
    target: Option<String>,
    /// The container, as -c.
    #[arg(value_name = "CONTAINER", conflicts_with_all = ["container", "all_containers"])]
    named: Option<String>,
    /// The pods with these labels, instead of one by name.
    #[arg(short = 'l', long, conflicts_with = "target")]
    selector: Option<Selector>,
    /// The container; the pod's default one otherwise.
    #[arg(short, long)]
    container: Option<String>,
    /// Every container of the pod, one after the other.
    #[arg(long, conflicts_with = "container")]
    all_containers: bool,
    #[command(flatten)]
    namespace: Namespace,
    /// Go on as the log grows.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines; -1 is all of them.
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what was written in this time up to now, such as 30s or 5m.
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Refused: the lab keeps lines as they were written, without their times.
    #[arg(long)]
    timestamps: bool,
    /// The log of the run before the last restart.
    #[arg(short, long)]
    previous: bool,
}

pub(super) async fn logs(client: &LabClient, options: &Logs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !options.timestamps,
        "--timestamps: the lab keeps lines as they were written, without their times; --since works"
    );
    let mut copies = tokio::task::JoinSet::new();
    for pod in log_targets(client, options).await? {
        for container in log_containers(client, options, &pod).await? {
            let path = log_path(options, &pod, container.as_deref());
            let body = match client.stream(&path).await {
                // Of several, one that has said nothing keeps nobody from reading the others.
                Err(ClientError::Refused(error)) if options.all_containers => {
                    eprintln!("{error}");
                    continue;
                }
                body => body?,
            };
            if options.follow {
                copies.spawn(copy_out(body));
            } else {
                copy_out(body).await?;
            }
        }
    }
    while let Some(copy) = copies.join_next().await {
        copy??;
    }
    Ok(ExitCode::SUCCESS)
}

/// The containers to read; `None` stands for the pod's default one.
async fn log_containers(
    client: &LabClient,
    options: &Logs,
    pod: &str,
) -> anyhow::Result<Vec<Option<String>>> {
    if !options.all_containers {
        let named = options.container.clone().or_else(|| options.named.clone());
        return Ok(vec![named]);
    }
    let namespace = &options.namespace.namespace;
    let all = client.containers(namespace, pod).await?;
    Ok(all.into_iter().map(Some).collect())
}

async fn log_targets(client: &LabClient, options: &Logs) -> anyhow::Result<Vec<String>> {
    let Some(selector) = &options.selector else {
        return Ok(options.target.iter().cloned().collect());
    };
    let namespace = options.namespace.namespace.as_str();
    let mut pods = client.objects("Pod", Some(namespace)).await?;
    pods.retain(|pod| selector.matches(pod));
    if pods.is_empty() {
        eprintln!("No resources found in {namespace} namespace.");
    }
    let name = |pod: &serde_json::Value| Some(pod["metadata"]["name"].as_str()?.to_owned());
    Ok(pods.iter().filter_map(name).collect())
}

fn log_path(options: &Logs, pod: &str, container: Option<&str>) -> String {
    // Of several pods kubectl shows the last ten lines each.
    let tail = options
        .tail
        .or_else(|| options.selector.as_ref().map(|_| 10));
    let tail = tail.filter(|tail| *tail >= 0).map(|tail| tail.to_string());
    let since = options.since.map(|since| since.as_millis().to_string());
    let mut pairs = vec![
        ("namespace", options.namespace.namespace.as_str()),
        ("pod", pod),
    ];
    pairs.extend(container.map(|container| ("container", container)));
    pairs.extend(tail.as_deref().map(|tail| ("tail", tail)));
    pairs.extend(since.as_deref().map(|since| ("since_millis", since)));
    pairs.extend(options.follow.then_some(("follow", "true")));
    pairs.extend(options.previous.then_some(("previous", "true")));
    format!("/logs?{}", query(&pairs))
}

/// Copies a streamed answer to standard output; a reader that goes away ends it quietly.
async fn copy_out(mut body: Incoming) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the lab's answer broke off")?.into_data() else {
            continue;
        };
        if out.write_all(&data).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab port-forward svc/productpage 9080\n  meltemi lab port-forward pod/echo 8000:8080 15000\n  \
                        meltemi lab forward 9080:productpage:9080\n  meltemi lab forward 0:svc/productpage:9080   # any free port"
)]
pub(super) struct Forward {
    /// TARGET [LOCAL:]PORT... as kubectl has it, or LOCAL:TARGET:PORT...; TARGET is a Service, `pod/NAME` or `deploy/NAME`, possibly NAME.NAMESPACE.
    #[arg(required = true, value_name = "WORDS")]
    forwards: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// The addresses of this machine to listen on, separated by commas; `localhost` is one.
    #[arg(long, default_value = "localhost", value_delimiter = ',', value_parser = listen_address)]
    address: Vec<IpAddr>,
}

fn listen_address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse()
        .map_err(|_| format!("\"{text}\" is neither an IP address nor localhost"))
}

pub(super) async fn forward(client: &LabClient, options: &Forward) -> anyhow::Result<ExitCode> {
    client.status().await?;
    let mut tasks = tokio::task::JoinSet::new();
    for (local, target, port) in parse_forwards(&options.forwards)? {
        client
            .can_forward(&options.namespace.namespace, target, port)
            .await?;
        for address in &options.address {
            let listener = TcpListener::bind((*address, local)).await;
            let listener =
                listener.with_context(|| format!("cannot listen on {address}:{local}"))?;
            println!(
                "Forwarding from {} -> {target}:{port}",
                listener.local_addr()?
            );
            let handover = Handover::Forward {
                namespace: options.namespace.namespace.clone(),
                target: target.to_owned(),
                port,
            };
            tasks.spawn(accept(client.clone(), listener, handover));
        }
    }
    std::io::stdout().flush()?;
    tasks.spawn(end_of(client.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when the lab is gone: a question that is never answered breaks off with it.
async fn end_of(client: LabClient) -> anyhow::Result<()> {
    loop {
        if client.changed(u64::MAX).await.is_err() && !client.is_up().await {
            bail!("lost connection to the lab \"{}\"", client.name());
        }
    }
}

/// Local port, target and its port: kubectl's `TARGET [LOCAL:]PORT...`, or `LOCAL:TARGET:PORT...`.
fn parse_forwards(words: &[String]) -> anyhow::Result<Vec<(u16, &str, u16)>> {
    let number = |text: &str| {
        text.parse::<u16>()
            .with_context(|| format!("\"{text}\" is no port"))
    };
    match words {
        [target, ports @ ..] if !target.contains(':') => {
            anyhow::ensure!(
                !ports.is_empty(),
                "which port of {target}? Write `{target} PORT` or `{target} LOCAL:PORT`"
            );
            let pair = |word: &String| match word.split_once(':') {
                None => number(word).map(|port| (port, target.as_str(), port)),
                // Any free port.
                Some(("", port)) => Ok((0, target.as_str(), number(port)?)),
                Some((local, port)) => Ok((number(local)?, target.as_str(), number(port)?)),
            };
            ports.iter().map(pair).collect()
        }
        _ => {
            let mut forwards = Vec::new();
            for word in words {
                match word.split(':').collect::<Vec<_>>()[..] {
                    [local, target, port] if !target.is_empty() => {
                        forwards.push((number(local)?, target, number(port)?));
                    }
                    _ => bail!("\"{word}\" is neither TARGET [LOCAL:]PORT nor LOCAL:TARGET:PORT"),
                }
            }
            Ok(forwards)
        }
    }
}

async fn accept(
    client: LabClient,
    listener: TcpListener,
    handover: Handover,
) -> anyhow::Result<()> {
    loop {
        let (stream, _source) = listener.accept().await?;
        let stream = stream.into_std()?;
        let (client, handover) = (client.clone(), handover.clone());
        tokio::task::spawn_blocking(
            move || match client.hand_over(&handover, &[stream.as_fd()]) {
                Ok(Outcome::Failed { error }) => eprintln!("forward: {error}"),
                Ok(_connected) => {}
                Err(error) => eprintln!("forward: {error}"),
            },
        );
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab capture deploy/reviews-v1 --for 2s > reviews.pcap"
)]
pub(super) struct Capture {
    /// A pod's name, or TYPE/NAME of what owns it.
    target: String,
    #[command(flatten)]
    namespace: Namespace,
    /// How long to capture, such as 500ms or 2s.
    #[arg(long = "for", value_parser = duration, default_value = "2s")]
    duration: Duration,
}

pub(super) async fn capture(client: &LabClient, options: &Capture) -> anyhow::Result<ExitCode> {
    let millis = options.duration.as_millis().to_string();
    let pairs = [
        ("namespace", options.namespace.namespace.as_str()),
        ("pod", &options.target),
        ("millis", &millis),
    ];
    let body = client
        .stream(&format!("/capture?{}", query(&pairs)))
        .await?;
    eprintln!(
        "capturing on the link of {} for {millis} ms",
        options.target
    );
    copy_out(body).await
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab kill control-plane --for 60s\n  meltemi lab kill deploy/ratings-v1 -c istio-proxy"
)]
pub(super) struct Kill {
    /// `control-plane`, a pod's name, or TYPE/NAME of what owns it.
    target: String,
    /// The container; the pod's default one otherwise.
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// Keep it down that long instead of restarting it as after a crash.
    #[arg(long = "for", value_parser = duration, default_value = "0s")]
    duration: Duration,
}

pub(super) async fn kill(client: &LabClient, options: &Kill) -> anyhow::Result<ExitCode> {
    let kill = wire::Kill {
        target: options.target.clone(),
        namespace: options.namespace.namespace.clone(),
        container: options.container.clone(),
        down_millis: u64::try_from(options.duration.as_millis())?,
    };
    client.kill(&kill).await?;
    eprintln!("killed {}", options.target);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_written_both_ways() {
        let parsed = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            let forwards = parse_forwards(&words);
            forwards.map(|all| {
                let shown = |(local, target, port)| format!("{local}->{target}:{port}");
                all.into_iter().map(shown).collect::<Vec<_>>().join(" ")
            })
        };
        for (words, expected) in [
            ("0:svc/productpage:9080", "0->svc/productpage:9080"),
            ("1:a:2 3:b:4", "1->a:2 3->b:4"),
            ("svc/productpage 9080:80", "9080->svc/productpage:80"),
            ("pod/a 8080", "8080->pod/a:8080"),
            ("a :80 81", "0->a:80 81->a:81"),
        ] {
            assert_eq!(parsed(words).unwrap(), expected, "{words}");
        }
        for bad in ["9080:9080", "x:a:1", "svc/productpage", "a http", "a 1:2:3"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert_eq!(listen_address("localhost").unwrap(), Ipv4Addr::LOCALHOST);
        assert!(listen_address("elsewhere").is_err());
    }
}
