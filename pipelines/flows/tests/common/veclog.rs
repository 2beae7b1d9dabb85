//! A log whose offsets and times a test decides.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition,
};

#[derive(Debug)]
pub struct VecLog {
    partitions: Vec<Mutex<Vec<StoredRecord>>>,
    trimmed: Mutex<Vec<Option<Offset>>>,
    away: AtomicBool,
}

impl VecLog {
    pub fn new(partitions: u32) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Mutex::default()).collect(),
            trimmed: Mutex::new(vec![None; partitions as usize]),
            away: AtomicBool::new(false),
        }
    }

    pub fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// Adds a record; offsets leave gaps, as those of some backends do. Returns its offset.
    pub fn put(&self, partition: u32, ingest_ms: i64, value: impl Into<bytes::Bytes>) -> i64 {
        let mut records = self.partitions[partition as usize].lock().unwrap();
        let offset = records.last().map_or(3, |record| record.offset.raw() + 1 + records.len() as u64 % 3);
        let record =
            StoredRecord { offset: Offset::from_raw(offset), ingest_ms, key: bytes::Bytes::new(), value: value.into() };
        records.push(record);
        offset as i64
    }

    pub fn records(&self, partition: u32) -> Vec<StoredRecord> {
        self.partitions[partition as usize].lock().unwrap().clone()
    }

    /// While away, nothing can be read.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, SeqCst);
    }

    fn available(&self) -> Result<(), LogError> {
        match self.away.load(SeqCst) {
            true => Err(LogError::new(LogErrorKind::Unavailable, "reading", "veclog", "the test took it away")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl EventLog for VecLog {
    async fn create_topic(&self, _: &Topic, _: u32) -> Result<(), LogError> {
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        Ok(vec![(super::topic(), self.partitions())])
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        let offsets = records.into_iter().map(|record| self.put(to.partition, super::T0, record.value));
        Ok(Offset::from_raw(offsets.last().unwrap() as u64))
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.available()?;
        let trimmed = self.trimmed.lock().unwrap()[from.partition as usize];
        if trimmed.is_some_and(|trimmed| position < Position::After(trimmed)) {
            return Err(LogError::new(LogErrorKind::Trimmed, "reading", from, "it was trimmed"));
        }
        let mut waited = Duration::ZERO;
        loop {
            let found: Vec<_> = self
                .records(from.partition)
                .into_iter()
                .filter(|record| Position::After(record.offset) > position)
                .take(limit.max_records.min(7))
                .collect();
            if !found.is_empty() || waited >= limit.max_wait {
                return Ok(found);
            }
            let pause = Duration::from_millis(2);
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        let records = self.records(of.partition);
        Ok(Bounds {
            first: records.first().map(|record| record.offset),
            last: records.last().map(|record| record.offset),
            trimmed: self.trimmed.lock().unwrap()[of.partition as usize],
        })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.partitions[of.partition as usize].lock().unwrap().retain(|record| record.offset > up_to);
        self.trimmed.lock().unwrap()[of.partition as usize] = Some(up_to);
        Ok(())
    }

    async fn join(&self, topic: &Topic, _: &str, _: &str) -> Result<Box<dyn GroupMember>, LogError> {
        Err(LogError::new(LogErrorKind::Internal, "joining", topic, "this log has no groups"))
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }
}
