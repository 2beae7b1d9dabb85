//! The redb file: tables, and the transactions on them. Blocking.

use std::{ops::Bound, path::Path};

use bytes::Bytes;
use flywheel_log::{Bounds, LogError, LogErrorKind, Offset, ReadLimit, StoredRecord, Topic, TopicPartition};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

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

#[derive(Debug)]
pub struct Store {
    file: Database,
}

impl Store {
    /// # Errors
    /// `Conflict` if another process holds the file, `InvalidData` if it is of a newer format.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, LogError> {
        let name = path.display();
        let file = Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(|error| stored("opening the log file", &name, error))?;
        Self::check(file, &name.to_string())
    }

    fn check(file: Database, name: &str) -> Result<Self, LogError> {
        let fail = |error: redb::Error| stored("opening the log file", name, error);
        let known = {
            let read = file.begin_read().map_err(|e| fail(e.into()))?;
            match read.open_table(META) {
                Ok(meta) => meta.get("format").map_err(|e| fail(e.into()))?.map(|v| v.value()),
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(fail(error.into())),
            }
        };
        match known {
            Some(FORMAT_VERSION) => {}
            Some(newer) => {
                let why = format!(
                    "it has format {newer}; this program knows formats up to {FORMAT_VERSION}; nothing was changed"
                );
                return Err(LogError::new(LogErrorKind::InvalidData, "opening the log file", name, why));
            }
            None => {
                let write = file.begin_write().map_err(|e| fail(e.into()))?;
                write
                    .open_table(META)
                    .map_err(|e| fail(e.into()))?
                    .insert("format", FORMAT_VERSION)
                    .map_err(|e| fail(e.into()))?;
                write.open_table(TOPICS).map_err(|e| fail(e.into()))?;
                write.open_table(BATCHES).map_err(|e| fail(e.into()))?;
                write.open_table(ENDS).map_err(|e| fail(e.into()))?;
                write.open_table(GROUPS).map_err(|e| fail(e.into()))?;
                write.commit().map_err(|e| fail(e.into()))?;
            }
        }
        Ok(Self { file })
    }

    /// Does all of `writes` or none, and returns once they are on disk.
    ///
    /// # Errors
    /// `Unavailable` if the disk is full or failing.
    pub fn write(&self, writes: &[Write]) -> Result<(), LogError> {
        self.try_write(writes).map_err(|error| stored("writing to", "the log file", error))
    }

    fn try_write(&self, writes: &[Write]) -> Result<(), redb::Error> {
        // Durability::Immediate is redb's default: commit returns after the fsync.
        let transaction = self.file.begin_write()?;
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
        let read = || -> Result<_, redb::Error> {
            let transaction = self.file.begin_read()?;
            let (topics, ends) = (transaction.open_table(TOPICS)?, transaction.open_table(ENDS)?);
            let mut all = Vec::new();
            for entry in topics.iter()? {
                let (topic, partitions) = entry?;
                let mut lanes = Vec::new();
                for partition in 0..partitions.value() {
                    let end = ends.get((topic.value(), partition))?.map(|v| v.value()).unwrap_or_default();
                    lanes.push(End { next: end.0, kept_from: end.1, last_ms: end.2 });
                }
                all.push((Topic::new(topic.value()), lanes));
            }
            Ok(all)
        };
        read().map_err(|error| stored("reading", "the log file", error))
    }

    /// Records with offsets of at least `from`, within `limit`.
    ///
    /// # Errors
    /// `Corrupt` if a batch is damaged; nothing of it is returned.
    pub fn read(&self, of: &TopicPartition, from: u64, limit: ReadLimit) -> Result<Vec<StoredRecord>, LogError> {
        let fail = |error: redb::Error| stored("reading", of, error);
        let transaction = self.file.begin_read().map_err(|e| fail(e.into()))?;
        let batches = transaction.open_table(BATCHES).map_err(|e| fail(e.into()))?;
        let (topic, partition) = (of.topic.as_str(), of.partition);
        let range = (Bound::Included((topic, partition, from)), Bound::Included((topic, partition, u64::MAX)));
        let (mut out, mut bytes) = (Vec::new(), 0);
        for entry in batches.range::<(&str, u32, u64)>(range).map_err(|e| fail(e.into()))? {
            let (key, batch) = entry.map_err(|e| fail(e.into()))?;
            for record in codec::decode(of, key.value().2, Bytes::copy_from_slice(batch.value()))? {
                if record.offset.raw() < from {
                    continue;
                }
                bytes += record.key.len() + record.value.len();
                if !out.is_empty() && (out.len() >= limit.max_records || bytes > limit.max_bytes) {
                    return Ok(out);
                }
                out.push(record);
            }
        }
        Ok(out)
    }

    /// # Errors
    /// If the file cannot be read.
    pub fn committed(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.file.begin_read()?;
            let groups = transaction.open_table(GROUPS)?;
            Ok(groups.get((of.topic.as_str(), group, of.partition))?.map(|v| Offset::from_raw(v.value() - 1)))
        };
        read().map_err(|error| stored("reading the group's position in", of, error))
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
