//! The redb file: tables, and the transactions on them. Blocking.

use bytes::Bytes;
use flywheel_log::{Bounds, LogError, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, Topic, TopicPartition};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

mod file;

pub use file::LogFile;
#[cfg(test)]
pub use file::{Opening, initialise};

use crate::{codec, error::stored};

/// Format of the file that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 1;

/// More than any machine that one log serves has use for; a larger number in a file is damage.
pub const MAX_PARTITIONS: u32 = 1 << 16;

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

    /// Opens the file again after the disk failed, and says what it holds.
    ///
    /// # Errors
    /// If that is not possible now; try again later.
    pub fn reopen(&self) -> Result<Vec<(Topic, Vec<End>)>, LogError> {
        self.0.reopen()?;
        self.topics().inspect_err(|_| self.0.set_broken())
    }

    pub fn set_broken(&self) {
        self.0.set_broken();
    }

    /// Does all of `writes` or none, and returns once they are on disk.
    ///
    /// # Errors
    /// `Unavailable` if the disk is full or failing.
    pub fn write(&self, writes: &[Write]) -> Result<(), LogError> {
        let target = "the log file";
        let result = self.0.using("writing to", &target, |file| {
            Self::try_write(file, writes).map_err(|error| stored("writing to", target, error))
        });
        // Whatever it was, redb may have discarded what it knew of free pages.
        if result.is_err() {
            self.0.set_broken();
        }
        result
    }

    fn try_write(file: &Database, writes: &[Write]) -> Result<(), redb::Error> {
        let mut transaction = file.begin_write()?;
        // An acknowledgement means that the bytes are on disk: `commit` returns after the fsync.
        transaction.set_durability(redb::Durability::Immediate)?;
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("log-never-synced") {
            transaction.set_durability(redb::Durability::None)?;
        }
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
    /// `Corrupt` if ends do not fit the batches; an append would overwrite some.
    pub fn topics(&self) -> Result<Vec<(Topic, Vec<End>)>, LogError> {
        let read = |file: &Database| -> Result<_, redb::Error> {
            let transaction = file.begin_read()?;
            let (topics, ends) = (transaction.open_table(TOPICS)?, transaction.open_table(ENDS)?);
            let batches = transaction.open_table(BATCHES)?;
            let damaged = |why: String| redb::Error::Corrupted(why);
            let mut all = Vec::new();
            for entry in topics.iter()? {
                let (topic, partitions) = entry?;
                let (topic, partitions) = (topic.value(), partitions.value());
                if partitions > MAX_PARTITIONS {
                    return Err(damaged(format!("{partitions} partitions of a topic")));
                }
                let mut lanes = Vec::new();
                for partition in 0..partitions {
                    let end = ends.get((topic, partition))?.map(|v| v.value()).unwrap_or_default();
                    let end = End { next: end.0, kept_from: end.1, last_ms: end.2 };
                    let mut kept = batches.range((topic, partition, 0)..=(topic, partition, u64::MAX))?;
                    let oldest = kept.next().transpose()?.map(|(key, _)| key.value().2);
                    let newest = kept.next_back().transpose()?.map(|(key, _)| key.value().2).or(oldest);
                    let fits = match (oldest, newest) {
                        (Some(oldest), Some(newest)) => {
                            oldest >= end.kept_from && newest.checked_add(1) == Some(end.next)
                        }
                        _ => end.kept_from == end.next,
                    };
                    if !fits || end.next > i64::MAX as u64 {
                        return Err(damaged(format!("the end of `{topic}/{partition}` does not fit its batches")));
                    }
                    lanes.push(end);
                }
                let topic = Topic::try_from(topic.to_owned()).map_err(damaged)?;
                all.push((topic, lanes));
            }
            Ok(all)
        };
        let (operation, target) = ("reading the topics of", "the log file");
        self.0.using(operation, &target, |file| read(file).map_err(|e| stored(operation, target, e)))
    }

    /// Records after `position` within `limit`; none if there are none. What lies before damage is returned without a word;
    /// the read that begins there is told.
    ///
    /// # Errors
    /// `Corrupt` if the first batch is damaged or missing, `Trimmed` like [`flywheel_log::EventLog::read`].
    pub fn read(
        &self,
        of: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.0.using("reading", of, |file| Self::try_read(file, of, position, limit))
    }

    fn try_read(
        file: &Database,
        of: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let fail = |error: redb::Error| stored("reading", of, error);
        let transaction = file.begin_read().map_err(|e| fail(e.into()))?;
        let (topic, partition) = (of.topic.as_str(), of.partition);
        let ends = transaction.open_table(ENDS).map_err(|e| fail(e.into()))?;
        let (next, kept_from, _) =
            ends.get((topic, partition)).map_err(|e| fail(e.into()))?.map(|v| v.value()).unwrap_or_default();
        LogError::check_trimmed(of, position, kept_from.checked_sub(1).map(Offset::from_raw))?;
        let from = match position {
            Position::Start => kept_from,
            Position::After(offset) => (offset.raw() + 1).max(kept_from),
        };
        let batches = transaction.open_table(BATCHES).map_err(|e| fail(e.into()))?;
        let range = (topic, partition, from)..=(topic, partition, u64::MAX);
        // Offsets have no gaps here, so each batch says where the one after it begins.
        let (mut out, mut bytes, mut expected) = (Vec::new(), 0, from);
        for entry in batches.range(range).map_err(|e| fail(e.into()))? {
            let (key, batch) = entry.map_err(|e| fail(e.into()))?;
            let last = key.value().2;
            let records = match codec::decode(of, last, Bytes::copy_from_slice(batch.value())) {
                // Only the first one may begin before what was asked for.
                Ok(records) if begins_at(&records, expected) || (expected == from && reaches(&records, from)) => {
                    records
                }
                _ if !out.is_empty() => return Ok(out),
                Ok(_) => return Err(missing(of, expected)),
                Err(damaged) => return Err(damaged),
            };
            for record in records.into_iter().skip_while(|record| record.offset.raw() < from) {
                bytes += record.key.len() + record.value.len();
                if !out.is_empty() && (out.len() >= limit.max_records || bytes > limit.max_bytes) {
                    return Ok(out);
                }
                out.push(record);
            }
            expected = last.saturating_add(1);
        }
        if out.is_empty() && expected < next {
            return Err(missing(of, expected));
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

fn begins_at(records: &[StoredRecord], offset: u64) -> bool {
    records.first().is_some_and(|first| first.offset.raw() == offset)
}

fn reaches(records: &[StoredRecord], offset: u64) -> bool {
    records.first().is_some_and(|first| first.offset.raw() <= offset)
}

fn missing(of: &TopicPartition, offset: u64) -> LogError {
    let why = "the record that should be here is missing; the file is damaged";
    LogError::new(LogErrorKind::Corrupt, "reading", format!("{of}@{offset}"), why)
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
