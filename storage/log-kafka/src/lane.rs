//! One partition as this process knows it: its newest records, and how far it goes.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_log::{LogError, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, TopicPartition, take_within};
use parking_lot::Mutex;
use tokio::sync::watch;

/// First offset kept, and the one after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub low: i64,
    pub high: i64,
}

impl Marks {
    /// Records up to here are gone.
    pub fn trimmed(self) -> Option<Offset> {
        (self.low > 0).then(|| Offset::from_raw(self.low as u64 - 1))
    }
}

/// The offset that a reader at `position` wants next, if that does not depend on what is kept.
pub(crate) fn next_of(position: Position) -> Option<i64> {
    match position {
        Position::Start => None,
        Position::After(offset) => Some(offset.as_i64().saturating_add(1)),
    }
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub of: TopicPartition,
    /// The topic's name on the broker.
    pub name: Arc<str>,
    /// Where the partition ends, as far as this process has heard; waiting readers look at it.
    pub end: watch::Sender<i64>,
    tail: Mutex<Option<Tail>>,
    marks: tokio::sync::Mutex<Option<(Instant, Shared)>>,
}

/// An answer that several askers share.
type Shared = Result<Marks, (LogErrorKind, String)>;

/// The newest records without a gap: all from `start` up to `next`.
#[derive(Debug)]
struct Tail {
    start: i64,
    next: i64,
    records: VecDeque<StoredRecord>,
    bytes: usize,
    wanted: Instant,
}

impl Lane {
    pub fn new(of: TopicPartition, name: Arc<str>) -> Self {
        Self { of, name, end: watch::Sender::new(0), tail: Mutex::default(), marks: tokio::sync::Mutex::default() }
    }

    pub fn partition(&self) -> i32 {
        self.of.partition as i32
    }

    pub fn ends_at_least_at(&self, end: i64) {
        self.end.send_if_modified(|known| {
            let moved = end > *known;
            *known = end.max(*known);
            moved
        });
    }

    /// Asks by `ask` for the marks; who comes while somebody asks waits for the answer to a question asked since.
    pub async fn marks<F>(&self, ask: impl FnOnce() -> F) -> Result<Marks, LogError>
    where
        F: Future<Output = Result<Marks, LogError>>,
    {
        let came = Instant::now();
        let mut last = self.marks.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked >= came
        {
            return answer
                .clone()
                .map_err(|(kind, why)| LogError::new(kind, "asking for the bounds of", &self.of, why));
        }
        let asked = Instant::now();
        let answer = ask().await;
        let shared = match &answer {
            Ok(marks) => Ok(*marks),
            Err(error) => {
                let why = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
                Err((error.kind(), why))
            }
        };
        *last = Some((asked, shared));
        if let Ok(marks) = &answer {
            self.ends_at_least_at(marks.high);
        }
        answer
    }

    /// Records from `next` on, if the newest ones in memory reach back that far and as far as is known to exist.
    pub fn recent(&self, next: i64, limit: ReadLimit) -> Option<Vec<StoredRecord>> {
        let end = *self.end.borrow();
        let mut tail = self.tail.lock();
        let tail = tail.as_mut()?;
        tail.wanted = Instant::now();
        if next < tail.start || next >= tail.next || tail.next < end {
            return None;
        }
        let skip = tail.records.partition_point(|record| record.offset.as_i64() < next);
        let found = take_within(tail.records.iter().skip(skip).cloned(), limit);
        (!found.is_empty()).then_some(found)
    }

    /// Whether the follower is where a reader at `next` is: what comes, comes to both.
    pub fn is_followed_at(&self, next: i64) -> bool {
        self.tail.lock().as_ref().is_some_and(|tail| tail.start <= next && next <= tail.next)
    }

    pub fn is_followed(&self) -> bool {
        let mut tail = self.tail.lock();
        if let Some(tail) = tail.as_mut() {
            tail.wanted = Instant::now();
        }
        tail.is_some()
    }

    pub fn follow_from(&self, next: i64) {
        *self.tail.lock() =
            Some(Tail { start: next, next, records: VecDeque::new(), bytes: 0, wanted: Instant::now() });
    }

    pub fn forget_tail(&self) {
        *self.tail.lock() = None;
    }

    /// Whether nobody has asked for the newest records for `long`.
    pub fn is_idle(&self, long: Duration) -> bool {
        self.end.receiver_count() == 0 && self.tail.lock().as_ref().is_none_or(|tail| tail.wanted.elapsed() > long)
    }

    /// Takes what the follower has read; keeps the newest `keep` bytes of it.
    pub fn push(&self, records: impl Iterator<Item = StoredRecord>, keep: usize) {
        let mut guard = self.tail.lock();
        let Some(tail) = guard.as_mut() else { return };
        for record in records {
            // What was on its way when the follower moved.
            if record.offset.as_i64() < tail.next {
                continue;
            }
            tail.next = record.offset.as_i64() + 1;
            tail.bytes += size(&record);
            tail.records.push_back(record);
        }
        while tail.bytes > keep
            && let Some(old) = tail.records.pop_front()
        {
            tail.bytes -= size(&old);
            tail.start = old.offset.as_i64() + 1;
        }
        let next = tail.next;
        drop(guard);
        self.ends_at_least_at(next);
    }

    /// Forgets what was trimmed.
    pub fn trimmed_below(&self, low: i64) {
        let mut tail = self.tail.lock();
        let Some(tail) = tail.as_mut() else { return };
        tail.start = tail.start.max(low);
        while let Some(old) = tail.records.pop_front_if(|old| old.offset.as_i64() < low) {
            tail.bytes -= size(&old);
        }
    }
}

fn size(record: &StoredRecord) -> usize {
    record.key.len() + record.value.len() + size_of::<StoredRecord>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flywheel_log::Topic;

    fn record(offset: u64) -> StoredRecord {
        StoredRecord { offset: Offset::from_raw(offset), ingest_ms: 0, key: "k".into(), value: vec![0; 100].into() }
    }

    fn offsets(found: Option<Vec<StoredRecord>>) -> Option<Vec<u64>> {
        found.map(|found| found.iter().map(|record| record.offset.raw()).collect())
    }

    #[test]
    fn the_newest_records_are_served_without_gaps_or_not_at_all() {
        let lane = Lane::new(Topic::new("t").partition(0), "t".into());
        let all = ReadLimit::default();
        assert_eq!(lane.recent(0, all), None);
        lane.follow_from(5);
        lane.push([3, 5, 6, 9].map(record).into_iter(), 1 << 20);
        assert_eq!(offsets(lane.recent(5, all)), Some(vec![5, 6, 9]));
        assert_eq!(offsets(lane.recent(7, all)), Some(vec![9]));
        assert_eq!(lane.recent(4, all), None);
        assert_eq!(lane.recent(10, all), None);
        assert!(lane.is_followed_at(10) && !lane.is_followed_at(11) && !lane.is_followed_at(4));
        // More is known to exist than is here: the reader must not take the part for the whole.
        lane.ends_at_least_at(12);
        assert_eq!(lane.recent(5, all), None);
        lane.push([10, 11].map(record).into_iter(), 3 * size(&record(0)));
        assert_eq!(lane.recent(5, all), None);
        assert_eq!(offsets(lane.recent(9, all)), Some(vec![9, 10, 11]));
        lane.trimmed_below(11);
        assert_eq!(offsets(lane.recent(11, all)), Some(vec![11]));
        assert_eq!(lane.recent(10, all), None);
    }
}
