//! Consumer groups of logs that live in one process: who has which partition, and how far the group is.

use std::{
    collections::{BTreeSet, HashMap},
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
/// Members by name and id, so that the assignment does not depend on who came first.
type MemberId = (String, u64);

/// The members of all groups of one log.
#[derive(Debug, Default)]
pub struct LocalGroups {
    next_id: AtomicU64,
    groups: Mutex<HashMap<GroupKey, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeSet<MemberId>,
    /// How often each partition has changed hands. A member that held it before holds nothing now, also when it
    /// comes back without having been asked in between.
    epochs: Vec<u64>,
}

impl Group {
    /// Partition `p` belongs to the member whose rank is `p` modulo the number of members.
    fn owner(&self, partition: u32) -> Option<&MemberId> {
        self.members.iter().nth(partition as usize % self.members.len().max(1))
    }

    fn change(&mut self, partitions: u32, change: impl FnOnce(&mut BTreeSet<MemberId>)) {
        let before: Vec<_> = (0..partitions).map(|p| self.owner(p).cloned()).collect();
        change(&mut self.members);
        self.epochs.resize(partitions as usize, 0);
        for (partition, before) in (0..).zip(before) {
            if self.owner(partition) != before.as_ref() {
                self.epochs[partition as usize] += 1;
            }
        }
    }
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
        self.groups.lock().entry(key.clone()).or_default().change(partitions, |members| {
            members.insert(id.clone());
        });
        Box::new(LocalMember { groups: Arc::clone(self), log, offsets, key, id, partitions, given: HashMap::new() })
    }

    /// The member's partitions, each with its epoch.
    fn assigned(&self, key: &GroupKey, id: &MemberId, partitions: u32) -> Vec<(TopicPartition, u64)> {
        let groups = self.groups.lock();
        let Some(group) = groups.get(key) else { return Vec::new() };
        let mine = (0..partitions).filter(|p| group.owner(*p) == Some(id));
        mine.map(|p| (key.0.partition(p), group.epochs[p as usize])).collect()
    }
}

struct LocalMember {
    groups: Arc<LocalGroups>,
    log: Arc<dyn EventLog>,
    offsets: Arc<dyn GroupOffsets>,
    key: GroupKey,
    id: MemberId,
    partitions: u32,
    /// Where this member goes on reading, and since which epoch the partition is its own; forgotten once that is over.
    given: HashMap<TopicPartition, (u64, Position)>,
}

impl fmt::Debug for LocalMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMember").field("group", &self.key).field("member", &self.id).finish_non_exhaustive()
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        let mut groups = self.groups.groups.lock();
        if let Some(group) = groups.get_mut(&self.key) {
            group.change(self.partitions, |members| {
                members.remove(&self.id);
            });
            if group.members.is_empty() {
                groups.remove(&self.key);
            }
        }
    }
}

#[async_trait]
impl GroupMember for LocalMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        let assigned = self.groups.assigned(&self.key, &self.id, self.partitions);
        Ok(assigned.into_iter().map(|(lane, _)| lane).collect())
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let mine = self.groups.assigned(&self.key, &self.id, self.partitions);
            // Noted only once nothing can fail or be given up any more: what is noted counts as given.
            let (mut out, mut bytes, mut given) = (Vec::new(), 0, Vec::new());
            for (lane, epoch) in &mine {
                let position = match self.given.get(lane) {
                    Some((since, position)) if since == epoch => *position,
                    _ => match self.offsets.load(&self.key.1, lane).await? {
                        Some(offset) => Position::After(offset),
                        None => Position::Start,
                    },
                };
                if out.len() >= limit.max_records.max(1) || (bytes >= limit.max_bytes && !out.is_empty()) {
                    break;
                }
                let left = ReadLimit {
                    max_records: limit.max_records.max(1) - out.len(),
                    max_bytes: limit.max_bytes.saturating_sub(bytes),
                    max_wait: Duration::ZERO,
                };
                let records = self.log.read(lane, position, left).await?;
                let position = records.last().map_or(position, |last| Position::After(last.offset));
                given.push((lane.clone(), (*epoch, position)));
                bytes += records.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
                out.extend(records.into_iter().map(|record| (lane.clone(), record)));
            }
            self.given.extend(given);
            if !out.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(out);
            }
            // Several partitions, and an assignment that may change: a short pause beats waiting on one of them.
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + Duration::from_millis(10))).await;
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let assigned = self.groups.assigned(&self.key, &self.id, self.partitions);
        let epoch = assigned.iter().find(|(lane, _)| lane == of).map(|(_, epoch)| *epoch);
        let given = self.given.get(of).map(|(since, _)| *since);
        if epoch.is_none() || given.is_some_and(|since| Some(since) != epoch) {
            // What it was given is another member's to do; should the partition come back, all of it comes again.
            self.given.remove(of);
            let why = format!("the partition went to another member of group `{}`", self.key.1);
            return Err(LogError::new(LogErrorKind::Fenced, "committing", of, why));
        }
        self.offsets.store(&self.key.1, of, offset).await
    }
}
