use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Bounds, Durability, EventLog, GroupMember, LogError, Offset, Position, ReadLimit, Record, StoredRecord, Topic,
    TopicPartition,
};

/// How slow a [`Throttled`] log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttle {
    /// Every append takes this much longer.
    pub append_delay: Duration,
    /// Every read takes this much longer.
    pub read_delay: Duration,
    /// Keys and values that are appended in a second, all partitions together.
    pub bytes_per_second: Option<u64>,
}

/// A log with a slow disk or a long way to it. Nothing fails, everything takes its time.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn EventLog>,
    throttle: Throttle,
    /// When the bytes appended so far are through.
    through: Mutex<Option<Instant>>,
}

impl Throttled {
    /// # Panics
    /// If `bytes_per_second` is zero.
    pub fn new(inner: Arc<dyn EventLog>, throttle: Throttle) -> Arc<Self> {
        assert_ne!(throttle.bytes_per_second, Some(0), "nothing would ever be through");
        Arc::new(Self { inner, throttle, through: Mutex::new(None) })
    }

    fn reserve(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.throttle.bytes_per_second else { return now };
        let mut through = self.through.lock();
        let from = through.map_or(now, |through| through.max(now));
        let until = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *through = Some(until);
        until
    }
}

#[async_trait]
impl EventLog for Throttled {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.inner.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.inner.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        let bytes = records.iter().map(|record| record.key.len() + record.value.len()).sum();
        tokio::time::sleep_until(self.reserve(bytes) + self.throttle.append_delay).await;
        self.inner.append(to, records).await
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        tokio::time::sleep(self.throttle.read_delay).await;
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
