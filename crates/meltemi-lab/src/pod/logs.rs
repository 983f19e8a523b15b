//! Containers' output in bounded files.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::Instant;

/// A run keeps at most this much: the current file and the one before it.
const FILE_LIMIT_BYTES: u64 = 10 * 1024 * 1024;
/// Marks of a log's clock: an hour of output in every second.
const MARKS: usize = 3600;
const MARK_EVERY: Duration = Duration::from_secs(1);

/// Where one run of a container writes.
#[derive(Clone, Debug)]
pub(crate) struct RunLog {
    path: PathBuf,
    /// A change wakes followers. The sender goes away when the run's output ends.
    written: watch::Receiver<Written>,
    clock: Arc<Mutex<Clock>>,
}

/// When output was written, for `--since`: a mark for a second in which there was any, the youngest last.
#[derive(Debug, Default)]
struct Clock(VecDeque<(Instant, u64)>);

impl Clock {
    fn mark(&mut self, now: Instant, from: u64) {
        let is_new = self
            .0
            .back()
            .is_none_or(|(last, _)| now.duration_since(*last) >= MARK_EVERY);
        if is_new {
            if self.0.len() == MARKS {
                self.0.pop_front();
            }
            self.0.push_back((now, from));
        }
    }

    /// Where the output of a moment and later begins, to the second; what is older than every mark counts as new.
    fn since(&self, moment: Option<Instant>, total: u64) -> u64 {
        let Some(moment) = moment else { return 0 };
        // A mark stands for its whole second.
        let is_later = |(at, _): &&(Instant, u64)| *at + MARK_EVERY > moment;
        self.0
            .iter()
            .find(is_later)
            .map_or(total, |(_, from)| *from)
    }
}

/// How far a log has come, in bytes since the run's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    total: u64,
    /// Where the file before the current one begins, and where the current one does.
    older_from: u64,
    current_from: u64,
}

impl RunLog {
    /// Where the output of the last `since` begins.
    pub(crate) fn written_since(&self, since: Duration) -> u64 {
        let total = self.written.borrow().total;
        self.clock
            .lock()
            .since(Instant::now().checked_sub(since), total)
    }

    /// What is kept of the bytes after `sent`, the oldest first, and where it ends.
    pub(crate) fn read_from(&self, sent: u64) -> (Vec<u8>, u64) {
        loop {
            let at = *self.written.borrow();
            let mut text = Vec::new();
            if sent < at.current_from {
                let from = sent.max(at.older_from);
                let length = at.current_from - from;
                text.extend(part(&older(&self.path), from - at.older_from, length));
            }
            let from = sent.max(at.current_from);
            text.extend(part(&self.path, from - at.current_from, at.total - from));
            // Files that changed their names meanwhile are read again.
            if self.written.borrow().current_from == at.current_from {
                return (text, at.total);
            }
        }
    }

    /// Waits until more than `sent` bytes are written; `false` when the run has ended without.
    pub(crate) async fn grows(&self, sent: u64) -> bool {
        let mut written = self.written.clone();
        written.wait_for(|now| now.total > sent).await.is_ok()
    }
}

/// A part of a file; what cannot be read is missing, as if it had not been kept.
fn part(path: &Path, from: u64, length: u64) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(length).read_to_end(&mut text)?;
        Ok(text)
    };
    read().unwrap_or_default()
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
        let (sender, written) = watch::channel(Written::default());
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let clock = Arc::default();
        tokio::spawn(pump(
            reader,
            Writer {
                path: path.clone(),
                file,
                length: 0,
            },
            sender,
            Arc::clone(&clock),
        ));
        let runs = self.runs.entry(container.to_owned()).or_default();
        if let Some(old) = runs.previous.take() {
            // Absent when that run never wrote enough to rotate.
            drop(fs::remove_file(older(&old.path)));
            drop(fs::remove_file(&old.path));
        }
        runs.previous = runs.current.replace(RunLog {
            path,
            written,
            clock,
        });
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

async fn pump(
    mut output: pipe::Receiver,
    mut writer: Writer,
    written: watch::Sender<Written>,
    clock: Arc<Mutex<Clock>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match output.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                clock.lock().mark(Instant::now(), written.borrow().total);
                // Under the watch's lock, so that a reader can tell whether files changed their names meanwhile.
                written.send_modify(|now| match writer.write(bytes) {
                    Ok(rotated) => {
                        if rotated {
                            now.older_from = now.current_from;
                            now.current_from = now.total;
                        }
                        now.total += count as u64;
                    }
                    // The container must not block on a full disk: its output is lost, and said so.
                    Err(error) => {
                        tracing::warn!(path = %writer.path.display(), %error, "cannot write a container's log");
                    }
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
    /// Says whether a new file was begun.
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let rotates = self.length > FILE_LIMIT_BYTES;
        if rotates {
            fs::rename(&self.path, older(&self.path))?;
            self.file = File::create(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(rotates)
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

    #[test]
    fn output_is_found_by_its_age() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut clock = Clock::default();
        for (second, from) in [(0, 0), (10, 100), (20, 200)] {
            clock.mark(at(second), from);
            clock.mark(at(second) + Duration::from_millis(10), from + 1);
        }
        for (moment, expected) in [(0, 0), (1, 100), (10, 100), (11, 200), (21, 300)] {
            assert_eq!(clock.since(Some(at(moment)), 300), expected, "{moment}");
        }
        assert_eq!(clock.since(None, 300), 0);
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
        assert_eq!(logs.find("app", false).unwrap().read_from(0).0, b"run 2\n");
        assert_eq!(logs.find("app", true).unwrap().read_from(0).0, b"run 1\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(logs.find("other", false).is_none());
    }

    #[tokio::test]
    async fn a_follower_reads_what_is_new_across_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut logs = Logs::default();
        let (reader, mut writer) = io::pipe().unwrap();
        logs.start(directory.path(), "app", 0, reader).unwrap();
        let log = logs.find("app", false).unwrap().clone();
        let line = [b'x'; 64 * 1024];
        let lines = FILE_LIMIT_BYTES / line.len() as u64 + 2;
        let writing = std::thread::spawn(move || {
            for _ in 0..lines {
                writer.write_all(&line).unwrap();
            }
            writer.write_all(b"the end").unwrap();
        });
        let (mut sent, mut last) = (0, Vec::new());
        while log.grows(sent).await {
            let (text, end) = log.read_from(sent);
            assert_eq!(text.len() as u64, end - sent);
            (sent, last) = (end, text);
        }
        writing.join().unwrap();
        assert!(last.ends_with(b"the end"));
        assert!(older(&log.path).exists(), "a second file was begun");
        assert_eq!(log.read_from(sent - 3).0, b"end");
    }
}
