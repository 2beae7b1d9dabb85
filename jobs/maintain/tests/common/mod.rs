//! A log that another process trims at the same time.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, Offset, Position, ReadLimit, Record, StoredRecord, Topic,
    TopicPartition,
};

/// Whoever asks for the bounds finds the log trimmed up to the next of `then` a moment later.
#[derive(Debug)]
pub struct TrimmedBeside {
    inner: Arc<dyn EventLog>,
    then: Mutex<Vec<Offset>>,
}

impl TrimmedBeside {
    pub fn over(inner: Arc<dyn EventLog>, mut then: Vec<Offset>) -> Arc<dyn EventLog> {
        then.reverse();
        Arc::new(Self { inner, then: Mutex::new(then) })
    }
}

#[async_trait]
impl EventLog for TrimmedBeside {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.inner.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        self.inner.append(to, records).await
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.inner.read(from, position, limit).await
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        let bounds = self.inner.bounds(of).await?;
        let then = self.then.lock().unwrap().pop();
        if let Some(up_to) = then {
            self.inner.trim(of, up_to).await?;
        }
        Ok(bounds)
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.inner.trim(of, up_to).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.inner.join(topic, group, member).await
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}
