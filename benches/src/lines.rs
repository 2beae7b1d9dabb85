//! Files of JSON lines as a log: what `bench ingest` lets the real lander land.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, MemoryLog, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition,
};

/// The clock of the log: a thousand events a millisecond from here on.
pub(crate) const FIRST_MS: i64 = 1_730_000_000_000;

/// One file for each partition of one topic, to be read once it is opened; everything else is kept in memory.
///
/// A file is read as its lines are asked for, so that reading it is part of what is measured.
#[derive(Debug)]
pub(crate) struct Lines {
    topic: Topic,
    files: Vec<Mutex<File>>,
    is_open: AtomicBool,
    others: Arc<MemoryLog>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    lines: i64,
    text: Option<Bytes>,
    /// Where the line lies that follows the last one that was read.
    next: i64,
    at: usize,
    /// How many lines are read at once.
    usual: usize,
}

impl Lines {
    /// `files` are paths, each with the number of its lines.
    pub fn new(topic: Topic, files: &[(PathBuf, usize)]) -> Arc<Self> {
        let file = |(path, lines): &(PathBuf, usize)| {
            Mutex::new(File { path: path.clone(), lines: *lines as i64, text: None, next: 0, at: 0, usual: 0 })
        };
        let files = files.iter().map(file).collect();
        Arc::new(Self { topic, files, is_open: AtomicBool::new(false), others: MemoryLog::new() })
    }

    /// From now on there is something to read.
    pub fn open(&self) {
        self.is_open.store(true, Relaxed);
    }

    fn file(&self, of: &TopicPartition) -> Option<&Mutex<File>> {
        self.files.get(of.partition as usize).filter(|_| of.topic == self.topic)
    }
}

impl File {
    fn read(&mut self, after: Position, limit: ReadLimit) -> anyhow::Result<Vec<StoredRecord>> {
        let from = match after {
            Position::Start => 0,
            Position::After(offset) => offset.as_i64() + 1,
        };
        if from != self.next {
            (self.next, self.at) = (0, 0);
        }
        while self.next < from {
            let passed = self.lines_from_here(usize::try_from(from - self.next)?, limit.max_bytes)?;
            self.pass(&passed);
            if passed.is_empty() {
                return Ok(passed);
            }
        }
        let found = self.lines_from_here(limit.max_records, limit.max_bytes)?;
        self.pass(&found);
        Ok(found)
    }

    fn pass(&mut self, lines: &[StoredRecord]) {
        self.next += lines.len() as i64;
        self.at += lines.iter().map(|line| line.value.len() + 1).sum::<usize>();
    }

    /// Whole lines from where the file stands.
    fn lines_from_here(&mut self, max_records: usize, max_bytes: usize) -> anyhow::Result<Vec<StoredRecord>> {
        let text = match &self.text {
            Some(text) => text,
            None => self.text.insert(mapped(&self.path).with_context(|| format!("reading {}", self.path.display()))?),
        };
        // About as many as the last time.
        let (mut lines, mut bytes, mut at) = (Vec::with_capacity(self.usual), 0, self.at);
        while lines.len() < max_records.max(1) && at < text.len() {
            let newline = memchr::memchr(b'\n', &text[at..]);
            let end = newline.map_or(text.len(), |found| at + found);
            bytes += end - at;
            if bytes > max_bytes && !lines.is_empty() {
                break;
            }
            let offset = Offset::from_raw((self.next + lines.len() as i64) as u64);
            let (ingest_ms, value) = (FIRST_MS + offset.as_i64() / 1000, text.slice(at..end));
            lines.push(StoredRecord { offset, ingest_ms, key: Bytes::new(), value });
            at = end + usize::from(newline.is_some());
        }
        self.usual = lines.len() + lines.len() / 8;
        Ok(lines)
    }
}

/// The bytes of a file, each read from the page cache when it is looked at; nothing is copied.
fn mapped(path: &Path) -> std::io::Result<Bytes> {
    let file = std::fs::File::open(path)?;
    // SAFETY: nobody changes the file, which the bench wrote into a folder of its own, until the bench has ended.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

#[async_trait]
impl EventLog for Lines {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.others.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.others.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        self.others.append(to, records).await
    }

    async fn read(&self, of: &TopicPartition, at: Position, limit: ReadLimit) -> Result<Vec<StoredRecord>, LogError> {
        let Some(file) = self.file(of) else { return self.others.read(of, at, limit).await };
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            if self.is_open.load(Relaxed) {
                let read = file.lock().expect("nothing panics while it holds this").read(at, limit);
                let found = read.map_err(|e| LogError::new(LogErrorKind::Unavailable, "reading", of, e))?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            if tokio::time::Instant::now() >= until {
                return Ok(Vec::new());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        let Some(file) = self.file(of) else { return self.others.bounds(of).await };
        let lines = file.lock().expect("nothing panics while it holds this").lines;
        let last = u64::try_from(lines - 1).ok().map(Offset::from_raw);
        Ok(Bounds { first: last.map(|_| Offset::from_raw(0)), last, trimmed: None })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.others.trim(of, up_to).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.others.join(topic, group, member).await
    }

    fn durability(&self) -> Durability {
        self.others.durability()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[tokio::test]
    async fn every_line_is_a_record_wherever_reading_begins() {
        let folder = Folder::new("lines").unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, "zero\none\ntwo\nthree").unwrap();
        let topic = Topic::new("t");
        let log = Lines::new(topic.clone(), &[(path, 4)]);
        let lane = topic.partition(0);
        let limit = |max_records| ReadLimit { max_records, max_bytes: 1 << 20, max_wait: Duration::ZERO };
        let words = |records: Vec<StoredRecord>| -> Vec<(u64, String)> {
            let word = |record: &StoredRecord| String::from_utf8(record.value.to_vec()).unwrap();
            records.iter().map(|record| (record.offset.raw(), word(record))).collect()
        };
        assert!(log.read(&lane, Position::Start, limit(9)).await.unwrap().is_empty(), "it is not open yet");
        log.open();
        let all = words(log.read(&lane, Position::Start, limit(9)).await.unwrap());
        assert_eq!(all, [(0, "zero"), (1, "one"), (2, "two"), (3, "three")].map(|(n, word)| (n, word.to_owned())));
        for from in 0..4_u64 {
            let at = from.checked_sub(1).map_or(Position::Start, |n| Position::After(Offset::from_raw(n)));
            assert_eq!(
                words(log.read(&lane, at, limit(2)).await.unwrap()),
                all[from as usize..].iter().take(2).cloned().collect::<Vec<_>>()
            );
        }
        let end = log.bounds(&lane).await.unwrap().last.unwrap();
        assert!(log.read(&lane, Position::After(end), limit(2)).await.unwrap().is_empty());
    }
}
