//! A log in memory: for tests, and for what need not survive the process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Bounds, Durability, EventLog, GroupMember, GroupOffsets, LocalGroups, LogError, Offset, Position, ReadLimit,
    Record, StoredRecord, Topic, TopicPartition, check_batch, take_within,
};

#[derive(Debug)]
struct Partition {
    records: Vec<StoredRecord>,
    next: u64,
    trimmed: Option<Offset>,
    last_ms: i64,
    appended: watch::Sender<u64>,
}

/// Keeps everything in memory until it is trimmed. Passes the same suite as the durable backends.
#[derive(Debug)]
pub struct MemoryLog {
    topics: Mutex<BTreeMap<Topic, Vec<Partition>>>,
    groups: Arc<LocalGroups>,
    offsets: Arc<MemoryOffsets>,
    this: Weak<Self>,
}

#[derive(Debug, Default)]
struct MemoryOffsets(Mutex<HashMap<(String, TopicPartition), Offset>>);

#[async_trait]
impl GroupOffsets for MemoryOffsets {
    async fn load(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError> {
        Ok(self.0.lock().get(&(group.to_owned(), of.clone())).copied())
    }

    async fn store(&self, group: &str, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.0.lock().insert((group.to_owned(), of.clone()), offset);
        Ok(())
    }
}

impl MemoryLog {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            topics: Mutex::default(),
            groups: Arc::default(),
            offsets: Arc::default(),
            this: this.clone(),
        })
    }

    fn with<T>(
        &self,
        operation: &'static str,
        of: &TopicPartition,
        act: impl FnOnce(&mut Partition) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut topics = self.topics.lock();
        let partition = topics.get_mut(&of.topic).and_then(|partitions| partitions.get_mut(of.partition as usize));
        act(partition.ok_or_else(|| LogError::unknown_partition(operation, of))?)
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        if partitions == 0 {
            return LogError::check_partitions(topic, 0, 0);
        }
        let mut topics = self.topics.lock();
        let known = topics.entry(topic.clone()).or_insert_with(|| {
            let empty = || Partition {
                records: Vec::new(),
                next: 0,
                trimmed: None,
                last_ms: 0,
                appended: watch::Sender::new(0),
            };
            (0..partitions).map(|_| empty()).collect()
        });
        LogError::check_partitions(topic, known.len() as u32, partitions)
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        Ok(self.topics.lock().iter().map(|(topic, partitions)| (topic.clone(), partitions.len() as u32)).collect())
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        check_batch(to, &records)?;
        self.with("appending", to, |partition| {
            partition.last_ms = partition.last_ms.max(now_ms());
            for Record { key, value } in records {
                let offset = Offset::from_raw(partition.next);
                partition.records.push(StoredRecord { offset, ingest_ms: partition.last_ms, key, value });
                partition.next += 1;
            }
            partition.appended.send_replace(partition.next);
            Ok(Offset::from_raw(partition.next - 1))
        })
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let mut appended = self.with("reading", from, |partition| Ok(partition.appended.subscribe()))?;
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let found = self.with("reading", from, |partition| {
                LogError::check_trimmed(from, position, partition.trimmed)?;
                appended.mark_unchanged();
                let start = match position {
                    Position::Start => 0,
                    Position::After(offset) => partition.records.partition_point(|record| record.offset <= offset),
                };
                Ok(take_within(partition.records[start..].iter().cloned(), limit))
            })?;
            if !found.is_empty() || tokio::time::timeout_at(until, appended.changed()).await.is_err() {
                return Ok(found);
            }
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.with("asking for the bounds of", of, |partition| {
            Ok(Bounds {
                first: partition.records.first().map(|record| record.offset),
                last: partition.records.last().map(|record| record.offset),
                trimmed: partition.trimmed,
            })
        })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.with("trimming", of, |partition| {
            let n = partition.records.partition_point(|record| record.offset <= up_to);
            if let Some(last) = partition.records.drain(..n).next_back() {
                partition.trimmed = Some(last.offset);
            }
            Ok(())
        })
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        let partitions = self.topics.lock().get(topic).map(Vec::len);
        let partitions = partitions.ok_or_else(|| LogError::unknown_topic("joining", topic))? as u32;
        let log = self.this.upgrade().expect("a method runs on a log that is alive");
        Ok(self.groups.join(log, Arc::clone(&self.offsets) as _, topic, partitions, group, member))
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogErrorKind;

    #[tokio::test]
    async fn an_unknown_partition_is_named() {
        let error = MemoryLog::new().bounds(&Topic::new("t").partition(3)).await.unwrap_err();
        assert_eq!(error.kind(), LogErrorKind::NotFound);
        assert!(error.to_string().contains("t/3"), "{error}");
    }
}
