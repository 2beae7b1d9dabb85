use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use metrics::{counter, histogram};

use crate::{
    Bounds, Durability, EventLog, GroupMember, LogError, Offset, Position, ReadLimit, Record, StoredRecord, Topic,
    TopicPartition,
    metrics::{APPEND_SECONDS, APPENDED_BYTES, APPENDED_RECORDS, ERRORS, READ_BYTES, READ_RECORDS},
};

/// Counts what goes through, by topic. What members of groups read is not counted: they read from the log within.
#[derive(Debug)]
pub struct Metered(Arc<dyn EventLog>);

impl Metered {
    pub fn new(inner: Arc<dyn EventLog>) -> Arc<Self> {
        Arc::new(Self(inner))
    }
}

fn count<T>(operation: &'static str, result: Result<T, LogError>) -> Result<T, LogError> {
    if let Err(error) = &result {
        counter!(ERRORS, "operation" => operation, "kind" => error.kind().as_str()).increment(1);
    }
    result
}

#[async_trait]
impl EventLog for Metered {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        count("create_topic", self.0.create_topic(topic, partitions).await)
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        count("topics", self.0.topics().await)
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        let (n, bytes) = (records.len(), records.iter().map(|r| r.key.len() + r.value.len()).sum::<usize>());
        let started = Instant::now();
        let offset = count("append", self.0.append(to, records).await)?;
        let topic = to.topic.to_string();
        histogram!(APPEND_SECONDS, "topic" => topic.clone()).record(started.elapsed().as_secs_f64());
        counter!(APPENDED_RECORDS, "topic" => topic.clone()).increment(n as u64);
        counter!(APPENDED_BYTES, "topic" => topic).increment(bytes as u64);
        Ok(offset)
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let records = count("read", self.0.read(from, position, limit).await)?;
        if !records.is_empty() {
            let topic = from.topic.to_string();
            let bytes = records.iter().map(|r| r.key.len() + r.value.len()).sum::<usize>();
            counter!(READ_RECORDS, "topic" => topic.clone()).increment(records.len() as u64);
            counter!(READ_BYTES, "topic" => topic).increment(bytes as u64);
        }
        Ok(records)
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        count("bounds", self.0.bounds(of).await)
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        count("trim", self.0.trim(of, up_to).await)
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        count("join", self.0.join(topic, group, member).await)
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }
}
