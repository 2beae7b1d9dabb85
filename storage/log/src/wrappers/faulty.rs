use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;

use crate::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition,
};

/// How often what fails; shares of one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// The same seed fails the same calls, counted from the first.
    pub seed: u64,
    /// Appends that fail and are not there.
    pub refused: f64,
    /// Appends that fail and are there: the reply was lost.
    pub replies_lost: f64,
    pub reads_failed: f64,
}

/// What a [`Faulty`] log has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    pub refused: u64,
    pub replies_lost: u64,
    pub reads_failed: u64,
}

/// Fails on purpose, by a seed; every failure is of kind `Unavailable`, as from a log that is out of reach.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn EventLog>,
    faults: Faults,
    away: AtomicBool,
    calls: AtomicU64,
    refused: AtomicU64,
    replies_lost: AtomicU64,
    reads_failed: AtomicU64,
}

impl Faulty {
    /// # Panics
    /// If a share lies outside `0.0..=1.0`.
    pub fn new(inner: Arc<dyn EventLog>, faults: Faults) -> Arc<Self> {
        for share in [faults.refused, faults.replies_lost, faults.reads_failed, faults.refused + faults.replies_lost] {
            assert!((0.0..=1.0).contains(&share), "{share} is not a share");
        }
        Arc::new(Self {
            inner,
            faults,
            away: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            replies_lost: AtomicU64::new(0),
            reads_failed: AtomicU64::new(0),
        })
    }

    /// While away, every call fails and nothing happens.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn counts(&self) -> FaultCounts {
        FaultCounts {
            refused: self.refused.load(Ordering::SeqCst),
            replies_lost: self.replies_lost.load(Ordering::SeqCst),
            reads_failed: self.reads_failed.load(Ordering::SeqCst),
        }
    }

    /// Uniform in `0.0..1.0`: SplitMix64 of seed and call.
    fn draw(&self) -> f64 {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut x = self.faults.seed.wrapping_add((call + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn reach(&self, operation: &'static str, target: impl std::fmt::Display) -> Result<(), LogError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(LogError::new(LogErrorKind::Unavailable, operation, target, "the log is away on purpose"));
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for Faulty {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.reach("creating", topic)?;
        self.inner.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.reach("listing", "topics")?;
        self.inner.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        if self.away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        self.reach("appending", to)?;
        let failed = |why: &str| Err(LogError::new(LogErrorKind::Unavailable, "appending", to, why));
        let draw = self.draw();
        if draw < self.faults.refused {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return failed("refused on purpose");
        }
        let appended = self.inner.append(to, records).await?;
        if draw < self.faults.refused + self.faults.replies_lost {
            self.replies_lost.fetch_add(1, Ordering::SeqCst);
            return failed("the reply was lost on purpose");
        }
        Ok(appended)
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.reach("reading", from)?;
        if self.draw() < self.faults.reads_failed {
            self.reads_failed.fetch_add(1, Ordering::SeqCst);
            return Err(LogError::new(LogErrorKind::Unavailable, "reading", from, "failed on purpose"));
        }
        self.inner.read(from, position, limit).await
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.reach("asking for the bounds of", of)?;
        self.inner.bounds(of).await
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.reach("trimming", of)?;
        self.inner.trim(of, up_to).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.reach("joining", topic)?;
        self.inner.join(topic, group, member).await
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryLog;

    async fn run(seed: u64) -> (Vec<bool>, FaultCounts, usize) {
        let (inner, topic) = (MemoryLog::new(), Topic::new("t"));
        inner.create_topic(&topic, 1).await.unwrap();
        let log = Faulty::new(inner.clone(), Faults { seed, refused: 0.2, replies_lost: 0.3, ..Faults::default() });
        let mut failed = Vec::new();
        for n in 0..1000 {
            let result = log.append(&topic.partition(0), vec![Record::new("k", format!("{n}"))]).await;
            assert!(result.as_ref().is_ok() || result.as_ref().unwrap_err().kind().is_retryable());
            failed.push(result.is_err());
        }
        let kept = inner.read(&topic.partition(0), Position::Start, ReadLimit::default()).await.unwrap().len();
        (failed, log.counts(), kept)
    }

    #[tokio::test]
    async fn the_same_seed_fails_the_same_calls_and_lost_replies_are_there() {
        let (failed, counts, kept) = run(7).await;
        assert_eq!((&failed, counts, kept), (&run(7).await.0, run(7).await.1, run(7).await.2));
        assert_ne!(failed, run(8).await.0);
        assert_eq!(kept as u64, 1000 - counts.refused);
        // 0.2 and 0.3 of 1000, five standard deviations wide.
        assert!((137..=263).contains(&counts.refused) && (228..=372).contains(&counts.replies_lost), "{counts:?}");
    }
}
