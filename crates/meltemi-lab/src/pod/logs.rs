//! Containers' output in bounded files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// A run keeps at most this much: the current file and the one before it.
const FILE_LIMIT_BYTES: u64 = 10 * 1024 * 1024;

/// Where one run of a container writes.
#[derive(Clone, Debug)]
pub(crate) struct RunLog {
    path: PathBuf,
    /// Counts bytes written; a change wakes followers. The sender goes away when the run's output ends.
    pub(crate) written: watch::Receiver<u64>,
}

impl RunLog {
    /// What is kept, the oldest first, and how many bytes the run has written up to its end.
    pub(crate) fn read(&self) -> (Vec<u8>, u64) {
        // Writing waits while this is held, so that text and count agree.
        let total = self.written.borrow();
        let mut text = fs::read(older(&self.path)).unwrap_or_default();
        text.extend(fs::read(&self.path).unwrap_or_default());
        (text, *total)
    }
}

/// The current and the previous run of each container of a pod, as `logs` and `logs --previous` show them.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    runs: BTreeMap<String, Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    current: Option<RunLog>,
    previous: Option<RunLog>,
}

impl Logs {
    /// Starts the log of a new run; the run before the previous one is forgotten.
    pub(crate) fn start(
        &mut self,
        directory: &Path,
        container: &str,
        run: u32,
        output: PipeReader,
    ) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{container}.{run}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let (sender, written) = watch::channel(0);
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        tokio::spawn(pump(
            reader,
            Writer {
                path: path.clone(),
                file,
                length: 0,
            },
            sender,
        ));
        let runs = self.runs.entry(container.to_owned()).or_default();
        if let Some(old) = runs.previous.take() {
            // Absent when that run never wrote enough to rotate.
            drop(fs::remove_file(older(&old.path)));
            drop(fs::remove_file(&old.path));
        }
        runs.previous = runs.current.replace(RunLog { path, written });
        Ok(())
    }

    pub(crate) fn find(&self, container: &str, previous: bool) -> Option<&RunLog> {
        let runs = self.runs.get(container)?;
        if previous {
            runs.previous.as_ref()
        } else {
            runs.current.as_ref()
        }
    }
}

async fn pump(mut output: pipe::Receiver, mut writer: Writer, written: watch::Sender<u64>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match output.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                written.send_modify(|total| {
                    if let Err(error) = writer.write(bytes) {
                        // The container must not block on a full disk: its output is lost, and said so.
                        tracing::warn!(path = %writer.path.display(), %error, "cannot write a container's log");
                    }
                    *total += count as u64;
                });
            }
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length > FILE_LIMIT_BYTES {
            fs::rename(&self.path, older(&self.path))?;
            self.file = File::create(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The last `count` lines.
pub(crate) fn tail(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut ends = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    match count.checked_sub(1) {
        None => &[],
        Some(skip) => ends
            .nth(skip)
            .map_or(text, |(at, _)| text.get(at + 1..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_lines() {
        for (text, count, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 1, "c"),
            ("a\n", 5, "a\n"),
            ("", 3, ""),
            ("a\nb\n", 0, ""),
        ] {
            assert_eq!(
                tail(text.as_bytes(), count),
                expected.as_bytes(),
                "{text:?} {count}"
            );
        }
    }

    #[tokio::test]
    async fn keeps_the_current_and_the_previous_run() {
        let directory = tempfile::tempdir().unwrap();
        let mut logs = Logs::default();
        for run in 0..3_u32 {
            let (reader, mut writer) = io::pipe().unwrap();
            logs.start(directory.path(), "app", run, reader).unwrap();
            writeln!(writer, "run {run}").unwrap();
            drop(writer);
            let mut written = logs.find("app", false).unwrap().written.clone();
            while written.changed().await.is_ok() {}
        }
        assert_eq!(logs.find("app", false).unwrap().read().0, b"run 2\n");
        assert_eq!(logs.find("app", true).unwrap().read().0, b"run 1\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(logs.find("other", false).is_none());
    }
}
