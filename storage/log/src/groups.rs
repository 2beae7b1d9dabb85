//! Consumer groups of logs that live in one process: who has which partition, and how far the group is.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, Topic, TopicPartition,
};

/// Where a backend keeps the committed offsets of its groups.
#[async_trait]
pub trait GroupOffsets: fmt::Debug + Send + Sync + 'static {
    async fn load(&self, group: &str, of: &TopicPartition) -> Result<Option<Offset>, LogError>;
    /// Durable when it returns.
    async fn store(&self, group: &str, of: &TopicPartition, offset: Offset) -> Result<(), LogError>;
}

type GroupKey = (Topic, String);

/// The members of all groups of one log.
#[derive(Debug, Default)]
pub struct LocalGroups {
    next_id: AtomicU64,
    /// Members by name and id, so that the assignment does not depend on who came first.
    members: Mutex<HashMap<GroupKey, BTreeMap<(String, u64), ()>>>,
}

impl LocalGroups {
    /// Adds a member; `log` and `offsets` are what it reads and commits to.
    pub fn join(
        self: &Arc<Self>,
        log: Arc<dyn EventLog>,
        offsets: Arc<dyn GroupOffsets>,
        topic: &Topic,
        partitions: u32,
        group: &str,
        member: &str,
    ) -> Box<dyn GroupMember> {
        let id = (member.to_owned(), self.next_id.fetch_add(1, Ordering::Relaxed));
        let key = (topic.clone(), group.to_owned());
        self.members.lock().entry(key.clone()).or_default().insert(id.clone(), ());
        Box::new(LocalMember { groups: Arc::clone(self), log, offsets, key, id, partitions, given: HashMap::new() })
    }

    /// Partition `p` belongs to the member whose rank is `p` modulo the number of members.
    fn assigned(&self, key: &GroupKey, id: &(String, u64), partitions: u32) -> Vec<TopicPartition> {
        let members = self.members.lock();
        let Some(group) = members.get(key) else { return Vec::new() };
        let Some(rank) = group.keys().position(|member| member == id) else { return Vec::new() };
        (0..partitions).filter(|p| *p as usize % group.len() == rank).map(|p| key.0.partition(p)).collect()
    }
}

struct LocalMember {
    groups: Arc<LocalGroups>,
    log: Arc<dyn EventLog>,
    offsets: Arc<dyn GroupOffsets>,
    key: GroupKey,
    id: (String, u64),
    partitions: u32,
    /// Where this member goes on reading; forgotten for partitions that it loses.
    given: HashMap<TopicPartition, Position>,
}

impl fmt::Debug for LocalMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMember").field("group", &self.key).field("member", &self.id).finish_non_exhaustive()
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        let mut members = self.groups.members.lock();
        if let Some(group) = members.get_mut(&self.key) {
            group.remove(&self.id);
            if group.is_empty() {
                members.remove(&self.key);
            }
        }
    }
}

#[async_trait]
impl GroupMember for LocalMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        Ok(self.groups.assigned(&self.key, &self.id, self.partitions))
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let mine = self.groups.assigned(&self.key, &self.id, self.partitions);
            self.given.retain(|lane, _| mine.contains(lane));
            let mut out = Vec::new();
            for lane in &mine {
                let position = match self.given.get(lane) {
                    Some(position) => *position,
                    None => match self.offsets.load(&self.key.1, lane).await? {
                        Some(offset) => Position::After(offset),
                        None => Position::Start,
                    },
                };
                let left = ReadLimit {
                    max_records: limit.max_records.saturating_sub(out.len()),
                    max_wait: Duration::ZERO,
                    ..limit
                };
                if left.max_records == 0 {
                    break;
                }
                let records = self.log.read(lane, position, left).await?;
                self.given.insert(lane.clone(), records.last().map_or(position, |last| Position::After(last.offset)));
                out.extend(records.into_iter().map(|record| (lane.clone(), record)));
            }
            if !out.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(out);
            }
            // Several partitions, and an assignment that may change: a short pause beats waiting on one of them.
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + Duration::from_millis(10))).await;
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        if !self.groups.assigned(&self.key, &self.id, self.partitions).contains(of) {
            let why = format!("the partition is another member's of group `{}`", self.key.1);
            return Err(LogError::new(LogErrorKind::Fenced, "committing", of, why));
        }
        self.offsets.store(&self.key.1, of, offset).await
    }
}
