//! The redb file: tables, and the transactions on them. Blocking.

use std::ops::Bound;

use bytes::Bytes;
use flywheel_log::{Bounds, LogError, LogErrorKind, Offset, ReadLimit, StoredRecord, Topic, TopicPartition};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

mod file;

pub use file::LogFile;

use crate::{codec, error::stored};

/// Format of the file that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

type Lane<'a> = (&'a str, u32);

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Partitions of each topic.
const TOPICS: TableDefinition<&str, u32> = TableDefinition::new("topics");
/// Batches by topic, partition and their last offset.
const BATCHES: TableDefinition<(&str, u32, u64), &[u8]> = TableDefinition::new("batches");
/// Next offset, one more than the last trimmed offset, and the time of the last append.
const ENDS: TableDefinition<Lane, (u64, u64, i64)> = TableDefinition::new("ends");
/// One more than the offset that a group committed.
const GROUPS: TableDefinition<(&str, &str, u32), u64> = TableDefinition::new("groups");

/// End of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    pub next: u64,
    /// Offsets below this are trimmed.
    pub kept_from: u64,
    pub last_ms: i64,
}

/// One change; several share a transaction and its fsync.
#[derive(Debug)]
pub enum Write {
    Topic { topic: Topic, partitions: u32 },
    Batch { to: TopicPartition, last: u64, batch: Bytes, end: End },
    Trim { of: TopicPartition, end: End },
    Group { group: String, of: TopicPartition, offset: Offset },
}

/// Blocking; share it behind an `Arc`.
#[derive(Debug)]
pub struct Store(LogFile);

impl Store {
    pub fn over(file: LogFile) -> Self {
        Self(file)
    }

    /// Whether the disk failed, so that [`Store::reopen`] is due.
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    /// # Errors
    /// If the file cannot be opened again; try again later.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.0.reopen()
    }

    /// Does all of `writes` or none, and returns once they are on disk.
    ///
    /// # Errors
    /// `Unavailable` if the disk is full or failing.
    pub fn write(&self, writes: &[Write]) -> Result<(), LogError> {
        let target = "the log file";
        self.0.using("writing to", &target, |file| {
            Self::try_write(file, writes).map_err(|error| stored("writing to", target, error))
        })
    }

    fn try_write(file: &Database, writes: &[Write]) -> Result<(), redb::Error> {
        let mut transaction = file.begin_write()?;
        // An acknowledgement means that the bytes are on disk: `commit` returns after the fsync.
        transaction.set_durability(redb::Durability::Immediate)?;
        {
            let (mut topics, mut batches) = (transaction.open_table(TOPICS)?, transaction.open_table(BATCHES)?);
            let (mut ends, mut groups) = (transaction.open_table(ENDS)?, transaction.open_table(GROUPS)?);
            for write in writes {
                match write {
                    Write::Topic { topic, partitions } => {
                        topics.insert(topic.as_str(), partitions)?;
                    }
                    Write::Batch { to, last, batch, end } => {
                        batches.insert((to.topic.as_str(), to.partition, *last), &batch[..])?;
                        ends.insert((to.topic.as_str(), to.partition), (end.next, end.kept_from, end.last_ms))?;
                    }
                    Write::Trim { of, end } => {
                        let (topic, partition) = (of.topic.as_str(), of.partition);
                        // Batches that end below the mark; one that reaches across it is kept and its head is hidden.
                        let gone = (topic, partition, 0)..(topic, partition, end.kept_from);
                        batches.retain_in(gone, |_, _| false)?;
                        ends.insert((topic, partition), (end.next, end.kept_from, end.last_ms))?;
                    }
                    Write::Group { group, of, offset } => {
                        groups.insert((of.topic.as_str(), group.as_str(), of.partition), offset.raw() + 1)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Every topic with its partitions and their ends.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn topics(&self) -> Result<Vec<(Topic, Vec<End>)>, LogError> {
        let read = |file: &Database| -> Result<_, redb::Error> {
            let transaction = file.begin_read()?;
            let (topics, ends) = (transaction.open_table(TOPICS)?, transaction.open_table(ENDS)?);
            let mut all = Vec::new();
            for entry in topics.iter()? {
                let (topic, partitions) = entry?;
                let mut lanes = Vec::new();
                for partition in 0..partitions.value() {
                    let end = ends.get((topic.value(), partition))?.map(|v| v.value()).unwrap_or_default();
                    lanes.push(End { next: end.0, kept_from: end.1, last_ms: end.2 });
                }
                all.push((topic.value().to_owned(), lanes));
            }
            Ok(all)
        };
        let (operation, target) = ("reading the topics of", "the log file");
        let topics = self.0.using(operation, &target, |file| read(file).map_err(|e| stored(operation, target, e)))?;
        let named = topics.into_iter().map(|(name, lanes)| {
            let topic = Topic::try_from(name);
            topic
                .map(|topic| (topic, lanes))
                .map_err(|why| LogError::new(LogErrorKind::Corrupt, operation, target, why))
        });
        named.collect()
    }

    /// Records with offsets of at least `from`, within `limit`, of a partition that reaches to `next`.
    ///
    /// # Errors
    /// `Corrupt` if a batch is damaged or missing; nothing of it is returned. `Trimmed` if `from` was trimmed meanwhile.
    pub fn read(
        &self,
        of: &TopicPartition,
        from: u64,
        next: u64,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.0.using("reading", of, |file| Self::try_read(file, of, from, next, limit))
    }

    fn try_read(
        file: &Database,
        of: &TopicPartition,
        from: u64,
        next: u64,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let fail = |error: redb::Error| stored("reading", of, error);
        let transaction = file.begin_read().map_err(|e| fail(e.into()))?;
        let batches = transaction.open_table(BATCHES).map_err(|e| fail(e.into()))?;
        let (topic, partition) = (of.topic.as_str(), of.partition);
        let range = (Bound::Included((topic, partition, from)), Bound::Included((topic, partition, u64::MAX)));
        let (mut out, mut bytes, mut expected) = (Vec::new(), 0, from);
        // Offsets of a partition have no gaps here. Where one is missing, a key or a page is damaged.
        let missing = |offset: u64| -> Result<LogError, LogError> {
            let ends = transaction.open_table(ENDS).map_err(|e| fail(e.into()))?;
            let end = ends.get((topic, partition)).map_err(|e| fail(e.into()))?.map(|v| v.value()).unwrap_or_default();
            let (kind, why) = match end.1 > offset {
                true => (LogErrorKind::Trimmed, "it was trimmed meanwhile"),
                false => (LogErrorKind::Corrupt, "the record that should be here is missing; the file is damaged"),
            };
            Ok(LogError::new(kind, "reading", format!("{of}@{offset}"), why))
        };
        for entry in batches.range::<(&str, u32, u64)>(range).map_err(|e| fail(e.into()))? {
            let (key, batch) = entry.map_err(|e| fail(e.into()))?;
            let last = key.value().2;
            let records = codec::decode(of, last, Bytes::copy_from_slice(batch.value()))?;
            let first = records.first().map_or(u64::MAX, |record| record.offset.raw());
            // Only the first batch may begin before what was asked for.
            if (key.value().0, key.value().1) != (topic, partition)
                || first > expected
                || (first < expected && expected != from)
            {
                return Err(missing(expected)?);
            }
            for record in records.into_iter().skip_while(|record| record.offset.raw() < from) {
                bytes += record.key.len() + record.value.len();
                if !out.is_empty() && (out.len() >= limit.max_records || bytes > limit.max_bytes) {
                    return Ok(out);
                }
                out.push(record);
            }
            expected = last.saturating_add(1);
        }
        if expected < next {
            return Err(missing(expected)?);
        }
        Ok(out)
    }

    /// # Errors
    /// If the file cannot be read.
    pub fn committed(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        let read = |file: &Database| -> Result<_, redb::Error> {
            let groups = file.begin_read()?.open_table(GROUPS)?;
            Ok(groups.get((of.topic.as_str(), group, of.partition))?.map(|v| v.value()))
        };
        let operation = "reading the group's position in";
        let raw = self.0.using(operation, of, |file| read(file).map_err(|error| stored(operation, of, error)))?;
        Ok(raw.and_then(|raw| Offset::try_from(raw.checked_sub(1)?).ok()))
    }
}

impl End {
    pub fn bounds(self) -> Bounds {
        let kept = self.next > self.kept_from;
        Bounds {
            first: kept.then(|| Offset::from_raw(self.kept_from)),
            last: kept.then(|| Offset::from_raw(self.next - 1)),
            trimmed: self.kept_from.checked_sub(1).map(Offset::from_raw),
        }
    }
}
