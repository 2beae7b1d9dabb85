//! The seam between everything that produces or consumes bytes in motion and where they are kept.
//!
//! A log is partitioned and append-only. When [`EventLog::append`] returns, the records survive a crash of
//! this process, and as much more as [`EventLog::durability`] says. Records of one partition are read in the
//! order in which they were appended; positions are committed by readers, beside their results.

mod batch;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod groups;
mod memory;
pub mod metrics;
mod reserve;
mod types;
mod wrappers;

pub use batch::{MAX_BATCH_BYTES, RECORD_OVERHEAD, batch_bytes, check_batch, take_within};
pub use error::{LogError, LogErrorKind, PartitionsDiffer};
pub use groups::{GroupOffsets, LocalGroups};
pub use memory::MemoryLog;
pub use reserve::{Reserve, ReserveLimits, Shut, Space};
pub use types::{
    Bounds, Durability, Offset, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition, partition_of,
};
pub use wrappers::{FaultCounts, Faults, Faulty, Metered, Reserved, Throttle, Throttled};

use std::fmt;

use async_trait::async_trait;

/// A partitioned, append-only log of records.
///
/// # Contract
/// - `append` is all or nothing as seen by readers, and durable to the class of [`EventLog::durability`] when
///   it returns `Ok`. After an `Err` of kind `Unavailable` the outcome is unknown: the records may be there.
/// - Offsets of one partition rise strictly in the order of appends; they may have gaps and support no
///   arithmetic. They fit a non-negative `i64`.
/// - A reader never sees a record before all earlier ones of its partition, and never sees one twice when it
///   resumes with `Position::After(last offset seen)`.
/// - Implementations retry nothing; callers decide.
#[async_trait]
pub trait EventLog: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that `topic` exists with `partitions` partitions.
    ///
    /// # Errors
    /// `Conflict` if it exists with another count.
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError>;

    /// Every topic with its number of partitions, by name.
    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError>;

    /// Appends `records` in order and returns the offset of the last one.
    ///
    /// # Errors
    /// `NotFound` for an unknown topic or partition, `InvalidData` for an empty or oversized batch (64 MiB), `Full` if nothing is taken
    /// because the volume is nearly full.
    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError>;

    /// Returns records after `position`, oldest first, waiting up to `limit.max_wait` for the first.
    /// Returns at least one record if there is any, however small `limit.max_bytes` is.
    ///
    /// # Errors
    /// `Trimmed` if records after `position` have been trimmed away.
    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError>;

    /// The oldest and newest offsets kept, and how far the partition was trimmed.
    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError>;

    /// Removes records up to and including `up_to`. Trimming twice, or beyond the end, is harmless.
    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError>;

    /// Joins the consumer group `group` as `member`: each record of `topic` goes to one member, at least once.
    /// For side effects only; tables keep their own positions.
    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError>;

    /// How much an acknowledged append survives.
    fn durability(&self) -> Durability;
}

/// A member of a consumer group. Dropping it leaves the group.
#[async_trait]
pub trait GroupMember: fmt::Debug + Send + 'static {
    /// The partitions that are this member's now.
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError>;

    /// Records of the assigned partitions after what this member was last given (at first: after the
    /// group's committed positions), waiting up to `limit.max_wait`.
    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError>;

    /// Everything up to and including `offset` is done with. Durable when it returns.
    ///
    /// # Errors
    /// `Fenced` if the partition has gone to another member since this one was given its records, also if it has come
    /// back by now: [`GroupMember::poll`] then gives again what is not committed.
    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError>;
}
