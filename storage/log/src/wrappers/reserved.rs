use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Bounds, Durability, EventLog, GroupMember, LogError, Offset, Position, ReadLimit, Record, Reserve, StoredRecord,
    Topic, TopicPartition,
};

/// A log that takes nothing while the volume beside it is nearly full: what it would take could not be landed. Reading
/// and trimming go on.
#[derive(Debug)]
pub struct Reserved {
    inner: Arc<dyn EventLog>,
    reserve: Arc<Reserve>,
}

impl Reserved {
    pub fn new(inner: Arc<dyn EventLog>, reserve: Arc<Reserve>) -> Arc<Self> {
        Arc::new(Self { inner, reserve })
    }
}

#[async_trait]
impl EventLog for Reserved {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.inner.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        self.reserve.admit("appending", to)?;
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
        self.inner.bounds(of).await
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
