//! The access log's way out: a bounded queue to one thread that writes in batches. A slow or full disk costs lines, which
//! are counted, and never a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use meltemi_proxy_core::runtime::AccessLogSink;

/// Lines waiting for the writer at most.
const QUEUE_LINES: usize = 8192;
/// Longest time a line waits in the writer's buffer.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
const FLUSH_BYTES: usize = 64 * 1024;

struct Line {
    sink: AccessLogSink,
    text: Vec<u8>,
}

/// Where data-path tasks put finished lines.
#[derive(Clone)]
pub(crate) struct LogSink {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl LogSink {
    /// Starts the writer; it ends when the last sink is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start() -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sink, lines) = Self::pair();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&lines))?;
        Ok((sink, writer))
    }

    fn pair() -> (Self, Receiver<Line>) {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        (
            Self {
                queue,
                dropped: Arc::default(),
            },
            lines,
        )
    }

    pub(crate) fn put(&self, sink: AccessLogSink, text: Vec<u8>) {
        if self.queue.try_send(Line { sink, text }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> (Self, TestLog) {
        let (sink, lines) = Self::pair();
        (sink, TestLog(lines))
    }
}

#[cfg(test)]
pub(crate) struct TestLog(Receiver<Line>);

#[cfg(test)]
impl TestLog {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0
            .try_iter()
            .map(|line| String::from_utf8(line.text).unwrap())
            .collect()
    }
}

fn write_all(lines: &Receiver<Line>) {
    let mut out = Writer::default();
    loop {
        match lines.recv_timeout(FLUSH_INTERVAL) {
            Ok(line) => out.put(line),
            Err(RecvTimeoutError::Timeout) => out.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                out.flush();
                return;
            }
        }
    }
}

#[derive(Default)]
struct Writer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    files: Vec<(Arc<str>, Option<std::fs::File>, Vec<u8>)>,
}

impl Writer {
    fn put(&mut self, line: Line) {
        let buffer = match line.sink {
            AccessLogSink::Stdout => &mut self.stdout,
            AccessLogSink::Stderr => &mut self.stderr,
            AccessLogSink::File(path) if &*path == "/dev/stdout" => &mut self.stdout,
            AccessLogSink::File(path) if &*path == "/dev/stderr" => &mut self.stderr,
            AccessLogSink::File(path) => {
                let known = self.files.iter().position(|(known, ..)| *known == path);
                let at = known.unwrap_or_else(|| {
                    let file = std::fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(&*path);
                    let file = file
                        .inspect_err(
                            |error| tracing::warn!(%path, %error, "cannot open the access log"),
                        )
                        .ok();
                    self.files.push((path, file, Vec::new()));
                    self.files.len() - 1
                });
                &mut self.files[at].2
            }
        };
        buffer.extend_from_slice(&line.text);
        if buffer.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        drain(&mut self.stdout, &mut std::io::stdout());
        drain(&mut self.stderr, &mut std::io::stderr());
        for (_, file, buffer) in &mut self.files {
            match file {
                Some(file) => drain(buffer, file),
                None => buffer.clear(),
            }
        }
    }
}

fn drain(buffer: &mut Vec<u8>, out: &mut dyn std::io::Write) {
    if buffer.is_empty() {
        return;
    }
    if let Err(error) = out.write_all(buffer).and_then(|()| out.flush()) {
        tracing::debug!(%error, "access log lines are lost");
    }
    buffer.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (sink, lines) = LogSink::pair();
        for _ in 0..QUEUE_LINES + 3 {
            sink.put(AccessLogSink::Stdout, b"x\n".to_vec());
        }
        assert_eq!(sink.dropped(), 3);
        assert_eq!(lines.try_iter().count(), QUEUE_LINES);
    }

    #[test]
    fn writes_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path: Arc<str> = folder.path().join("log").to_str().unwrap().into();
        let (sink, writer) = LogSink::start().unwrap();
        for i in 0..3 {
            sink.put(
                AccessLogSink::File(path.clone()),
                format!("{i}\n").into_bytes(),
            );
        }
        drop(sink);
        writer.join().unwrap();
        assert_eq!(std::fs::read_to_string(&*path).unwrap(), "0\n1\n2\n");
    }
}
