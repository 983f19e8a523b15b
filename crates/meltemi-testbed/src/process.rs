//! Running other programs, with a bound on every wait.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a program to its end and returns its standard output.
pub(crate) async fn run(mut command: Command, input: &str, limit: Duration) -> Result<String> {
    let line = display(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let mut stdin = child.stdin.take().context("a child without a pipe")?;
    let work = async {
        let (written, output) = tokio::join!(
            async {
                stdin.write_all(input.as_bytes()).await?;
                stdin.shutdown().await?;
                drop(stdin);
                std::io::Result::Ok(())
            },
            child.wait_with_output()
        );
        // Whoever ends without reading its input has said why on standard error.
        drop(written);
        output
    };
    let output = timeout(limit, work)
        .await
        .with_context(|| format!("`{line}` took longer than {limit:?}"))?
        .with_context(|| format!("cannot wait for `{line}`"))?;
    ensure!(
        output.status.success(),
        "`{line}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a program that stays, with its output in a file.
pub(crate) fn start(mut command: Command, log: &Path) -> Result<Child> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let line = display(&command);
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("cannot share a log file")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))
}

/// Looks until a condition holds.
///
/// # Errors
/// It did not within the limit; the text says what the last look saw.
pub(crate) async fn until(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let Err(error) = look().await else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}: {error:#}");
        }
        sleep(POLL_INTERVAL).await;
    }
}

pub(crate) fn display(command: &Command) -> String {
    let command = command.as_std();
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of a log file, for an error message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The child of a process that has one, such as `unshare --fork`.
pub(crate) fn only_child(pid: u32) -> Result<u32> {
    let file = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    children
        .trim()
        .parse()
        .with_context(|| format!("process {pid} has not one child, but \"{children}\""))
}
