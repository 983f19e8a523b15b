//! The access log's way out: lines gather in memory and one thread writes them in batches. A slow or full disk costs
//! lines, which are counted, and never a request.
//!
//! A batch is written when its oldest line is [`FLUSH_AGE`] old or its bytes reach [`FLUSH_BYTES`], so that under steady
//! load lines are seen as soon as under none. The writer sleeps between batches: a request pays for a lock and a copy,
//! not for waking a thread.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meltemi_proxy_core::access_log;
use meltemi_proxy_core::record::RequestRecord;
use meltemi_proxy_core::runtime::{AccessLog, AccessLogSink};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Longest time a line waits for company.
const FLUSH_AGE: Duration = Duration::from_millis(200);
/// Bytes that wait for the writer before it is woken ahead of time.
const FLUSH_BYTES: usize = 64 * 1024;
/// Bytes that may wait while the writer is busy; lines beyond it are dropped.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Where data-path tasks put finished lines.
#[derive(Clone)]
pub(crate) struct LogSink(Arc<Queue>);

#[derive(Default)]
struct Queue {
    pending: Mutex<Pending>,
    changed: Condvar,
    dropped: AtomicU64,
}

impl LogSink {
    /// Starts the writer. It writes what there is and ends when the sink is closed; the receiver is told then.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start() -> io::Result<(Self, oneshot::Receiver<()>)> {
        let queue = Arc::new(Queue::default());
        let sink = Self(queue.clone());
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_all(&queue);
                let _nobody_waits = ended.send(());
            })?;
        Ok((sink, end))
    }

    /// Lets the writer end; lines from now on are dropped.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// Writes a record's line to every log whose filter admits it.
    pub(crate) fn tell(&self, logs: &[Arc<AccessLog>], record: &RequestRecord) {
        for log in logs {
            let admitted = log
                .filter
                .as_ref()
                .is_none_or(|filter| access_log::admits(filter, record, rand::random()));
            if admitted {
                let line = access_log::render(&log.format, record).into_bytes();
                self.put(log.sink.clone(), line);
            }
        }
    }

    pub(crate) fn put(&self, sink: AccessLogSink, text: Vec<u8>) {
        let queue = &self.0;
        match queue.pending.lock().put(sink, &text, Instant::now()) {
            Put::Queued => {}
            Put::WakeWriter => {
                queue.changed.notify_one();
            }
            Put::Full => queue.lost(1),
        }
    }

    /// Lines that were never written: the queue was full or closed, or the file refused them.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> (Self, TestLog) {
        let queue = Arc::new(Queue::default());
        (Self(queue.clone()), TestLog(queue))
    }
}

#[cfg(test)]
pub(crate) struct TestLog(Arc<Queue>);

#[cfg(test)]
impl TestLog {
    pub(crate) fn lines(&self) -> Vec<String> {
        let batches = self.0.pending.lock().take();
        let text = |batch: Batch| String::from_utf8(batch.text).unwrap();
        let lines = |text: String| {
            text.split_inclusive('\n')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        batches.into_iter().map(text).flat_map(lines).collect()
    }
}

impl Queue {
    fn close(&self) {
        self.pending.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lost(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Waits for batches to be due. `None` when nothing will come any more.
    fn next(&self) -> Option<Vec<Batch>> {
        let mut pending = self.pending.lock();
        loop {
            match pending.due(Instant::now()) {
                Due::Now => return Some(pending.take()),
                Due::Never => return None,
                Due::WhenLineComes => self.changed.wait(&mut pending),
                Due::At(time) => {
                    self.changed.wait_until(&mut pending, time.into_std());
                }
            }
        }
    }
}

/// Lines on their way to one sink.
struct Batch {
    sink: AccessLogSink,
    text: Vec<u8>,
    lines: u64,
}

/// What waits for the writer, and since when.
#[derive(Default)]
struct Pending {
    batches: Vec<Batch>,
    bytes: usize,
    oldest: Option<Instant>,
    is_closed: bool,
}

#[derive(Debug, PartialEq)]
enum Put {
    Queued,
    /// The first line of a batch, which starts the clock, or the one that fills it.
    WakeWriter,
    Full,
}

#[derive(Debug, PartialEq)]
enum Due {
    Now,
    At(Instant),
    WhenLineComes,
    Never,
}

impl Pending {
    fn put(&mut self, sink: AccessLogSink, line: &[u8], now: Instant) -> Put {
        if self.is_closed || self.bytes + line.len() > QUEUE_BYTES {
            return Put::Full;
        }
        let known = self.batches.iter().position(|batch| batch.sink == sink);
        let at = known.unwrap_or_else(|| {
            self.batches.push(Batch {
                sink,
                text: Vec::new(),
                lines: 0,
            });
            self.batches.len() - 1
        });
        self.batches[at].text.extend_from_slice(line);
        self.batches[at].lines += 1;
        let was_enough = self.bytes >= FLUSH_BYTES;
        self.bytes += line.len();
        let fills = !was_enough && self.bytes >= FLUSH_BYTES;
        if self.oldest.is_none() || fills {
            self.oldest.get_or_insert(now);
            return Put::WakeWriter;
        }
        Put::Queued
    }

    fn due(&self, now: Instant) -> Due {
        match self.oldest {
            None if self.is_closed => Due::Never,
            None => Due::WhenLineComes,
            Some(_) if self.is_closed || self.bytes >= FLUSH_BYTES => Due::Now,
            Some(oldest) if oldest + FLUSH_AGE <= now => Due::Now,
            Some(oldest) => Due::At(oldest + FLUSH_AGE),
        }
    }

    fn take(&mut self) -> Vec<Batch> {
        self.bytes = 0;
        self.oldest = None;
        std::mem::take(&mut self.batches)
    }
}

fn write_all(queue: &Queue) {
    let mut files = Files::default();
    while let Some(batches) = queue.next() {
        for batch in batches {
            if let Err(error) = files.write(&batch) {
                tracing::debug!(%error, lines = batch.lines, "access log lines are lost");
                queue.lost(batch.lines);
            }
        }
    }
}

/// The files of the log, opened at their first line. Few: one for each path that the configuration names.
#[derive(Default)]
struct Files(Vec<(Arc<str>, File)>);

impl Files {
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        match &batch.sink {
            AccessLogSink::Stdout => write_to(&mut io::stdout(), batch),
            AccessLogSink::Stderr => write_to(&mut io::stderr(), batch),
            AccessLogSink::File(path) => match &**path {
                "/dev/stdout" => write_to(&mut io::stdout(), batch),
                "/dev/stderr" => write_to(&mut io::stderr(), batch),
                _ => self.file(path)?.write_all(&batch.text),
            },
        }
    }

    /// A file that cannot be opened is tried again with the next batch.
    fn file(&mut self, path: &Arc<str>) -> io::Result<&mut File> {
        let known = self.0.iter().position(|(known, _)| known == path);
        let at = match known {
            Some(at) => at,
            None => {
                let file = File::options().create(true).append(true).open(&**path)?;
                self.0.push((path.clone(), file));
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[at].1)
    }
}

fn write_to(out: &mut dyn Write, batch: &Batch) -> io::Result<()> {
    out.write_all(&batch.text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"a line\n";

    #[test]
    fn a_batch_is_due_by_the_age_of_its_first_line_under_steady_load_too() {
        let mut pending = Pending::default();
        let start = Instant::now();
        assert_eq!(pending.due(start), Due::WhenLineComes);
        assert_eq!(
            pending.put(AccessLogSink::Stdout, LINE, start),
            Put::WakeWriter
        );
        let mut now = start;
        while now < start + FLUSH_AGE {
            assert_eq!(pending.due(now), Due::At(start + FLUSH_AGE));
            now += FLUSH_AGE / 10;
            assert_eq!(pending.put(AccessLogSink::Stdout, LINE, now), Put::Queued);
        }
        assert_eq!(pending.due(now), Due::Now);
        assert_eq!(pending.take()[0].lines, 11);
        assert_eq!(pending.due(now), Due::WhenLineComes);
    }

    #[test]
    fn a_full_batch_is_due_at_once_and_wakes_the_writer_once() {
        let mut pending = Pending::default();
        let now = Instant::now();
        let half = vec![b'x'; FLUSH_BYTES / 2];
        let puts: Vec<Put> = (0..3)
            .map(|_| pending.put(AccessLogSink::Stdout, &half, now))
            .collect();
        assert_eq!(puts, [Put::WakeWriter, Put::WakeWriter, Put::Queued]);
        assert_eq!(pending.due(now), Due::Now);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (sink, log) = LogSink::for_tests();
        let line = vec![b'x'; QUEUE_BYTES / 4];
        for _ in 0..7 {
            sink.put(AccessLogSink::Stdout, line.clone());
        }
        assert_eq!(sink.dropped(), 3);
        assert_eq!(log.0.pending.lock().take()[0].lines, 4);
    }

    #[test]
    fn writes_files_in_order_and_counts_what_a_file_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| -> Arc<str> { folder.path().join(name).to_str().unwrap().into() };
        let (good, bad) = (file("log"), file("no/folder/log"));
        let (sink, end) = LogSink::start().unwrap();
        for i in 0..3 {
            let line = format!("{i}\n").into_bytes();
            sink.put(AccessLogSink::File(good.clone()), line.clone());
            sink.put(AccessLogSink::File(bad.clone()), line);
        }
        sink.close();
        sink.put(AccessLogSink::File(good.clone()), b"late\n".to_vec());
        end.blocking_recv().unwrap();
        assert_eq!(std::fs::read_to_string(&*good).unwrap(), "0\n1\n2\n");
        assert_eq!(sink.dropped(), 4, "three refused, one late");
    }
}
