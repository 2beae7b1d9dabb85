//! Consumer groups: members hold leases in Redis, partitions are shared by rank, each change of hands is an epoch.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flywheel_log::{
    EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, Topic, TopicPartition,
};
use parking_lot::Mutex;

use crate::{
    connection::{Ask, Connection},
    ids,
    redis_log::RedisLog,
    scripts,
};

/// Pause between looks at who has which partition, while a member waits.
const LOOK: Duration = Duration::from_millis(100);
/// A member whose owner does not call it for so long is taken for stuck, and its lease runs out.
const STUCK: Duration = Duration::from_secs(300);

/// Partition, epoch, committed id or nothing.
type Share = Vec<(String, String, String)>;

#[derive(Debug, Clone)]
struct Seat {
    connection: Arc<Connection>,
    key: String,
    topic: Topic,
    partitions: u32,
    id: String,
    called: Arc<Mutex<Instant>>,
}

impl Seat {
    async fn sync(&self, operation: &'static str, lease: Duration, commit: &[String]) -> Result<Share, LogError> {
        let mut call = scripts::SYNC.prepare_invoke();
        call.key(format!("{}:members", self.key)).key(&self.key);
        call.arg(&self.id).arg(lease.as_millis() as u64).arg(self.partitions);
        for arg in commit {
            call.arg(arg);
        }
        self.connection.ask(operation, &self.key, Ask::Script(&call)).await
    }

    /// What a living member says.
    async fn call(&self, operation: &'static str, commit: &[String]) -> Result<Share, LogError> {
        *self.called.lock() = Instant::now();
        self.sync(operation, self.connection.config.lease, commit).await
    }

    /// Renews the lease beside whatever the member's owner does with its records, which may take longer than a lease.
    async fn renew(self) {
        let lease = self.connection.config.lease;
        loop {
            tokio::time::sleep(lease / 4).await;
            let stuck = self.called.lock().elapsed() > STUCK.max(lease);
            if !stuck && let Err(error) = self.sync("renewing", lease, &[]).await {
                tracing::debug!(%error, "a lease is not renewed");
            }
        }
    }

    fn lane(&self, partition: &str) -> Result<TopicPartition, LogError> {
        let parsed = partition.parse::<u32>();
        let parsed = parsed.map_err(|error| LogError::new(LogErrorKind::Corrupt, "asking", &self.key, error))?;
        Ok(self.topic.partition(parsed))
    }
}

struct RedisMember {
    log: Arc<RedisLog>,
    seat: Seat,
    renewing: Option<tokio::task::JoinHandle<()>>,
    /// Where this member goes on reading, and since which epoch the partition is its own.
    given: HashMap<TopicPartition, (String, Position)>,
}

impl fmt::Debug for RedisMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisMember").field("seat", &self.seat).finish_non_exhaustive()
    }
}

pub async fn join(
    log: Arc<RedisLog>,
    connection: Arc<Connection>,
    key: String,
    topic: &Topic,
    partitions: u32,
    member: &str,
) -> Result<Box<dyn GroupMember>, LogError> {
    let id = format!("{member}:{}", uuid::Uuid::now_v7());
    let called = Arc::new(Mutex::new(Instant::now()));
    let seat = Seat { connection, key, topic: topic.clone(), partitions, id, called };
    // Made first: a join that is given up leaves by being dropped.
    let mut joined = RedisMember { log, seat, renewing: None, given: HashMap::new() };
    joined.seat.call("joining", &[]).await?;
    joined.renewing = Some(tokio::spawn(joined.seat.clone().renew()));
    Ok(Box::new(joined))
}

impl Drop for RedisMember {
    fn drop(&mut self) {
        let (seat, renewing) = (self.seat.clone(), self.renewing.take());
        if let Some(renewing) = &renewing {
            renewing.abort();
        }
        // Without a runtime, or when it ends first, the lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // First the end of the renewals: one that came after would be a member again.
                if let Some(renewing) = renewing {
                    let _cancelled = renewing.await;
                }
                seat.sync("leaving", Duration::ZERO, &[]).await
            });
        }
    }
}

#[async_trait]
impl GroupMember for RedisMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        let share = self.seat.call("asking", &[]).await?;
        share.iter().map(|(partition, ..)| self.seat.lane(partition)).collect()
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let share = self.seat.call("polling", &[]).await?;
            // Noted only once nothing can fail or be given up any more: what is noted counts as given.
            let (mut out, mut bytes, mut given, mut places) = (Vec::new(), 0, Vec::new(), Vec::new());
            for (partition, epoch, committed) in share {
                let lane = self.seat.lane(&partition)?;
                let position = match self.given.get(&lane) {
                    Some((since, position)) if *since == epoch => *position,
                    _ => ids::offset_of(&committed).map_or(Position::Start, Position::After),
                };
                if out.len() >= limit.max_records.max(1) || (bytes >= limit.max_bytes && !out.is_empty()) {
                    break;
                }
                let left = ReadLimit {
                    max_records: limit.max_records.max(1) - out.len(),
                    max_bytes: limit.max_bytes.saturating_sub(bytes),
                    max_wait: Duration::ZERO,
                };
                let records = self.log.read(&lane, position, left).await?;
                let position = records.last().map_or(position, |last| Position::After(last.offset));
                places.push((lane.clone(), position));
                given.push((lane.clone(), (epoch, position)));
                bytes += records.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
                out.extend(records.into_iter().map(|record| (lane.clone(), record)));
            }
            self.given.extend(given);
            if !out.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(out);
            }
            let until = until.min(tokio::time::Instant::now() + LOOK);
            if places.is_empty() {
                tokio::time::sleep_until(until).await;
            } else {
                self.log.wait(&places, until).await;
            }
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let epoch = self.given.get(of).map_or("-1", |(since, _)| since).to_owned();
        let done = self.seat.call("committing", &[of.partition.to_string(), epoch, ids::id_of(offset)]).await?;
        if done.is_empty() {
            // What it was given is another member's to do; should the partition come back, all of it comes again.
            self.given.remove(of);
            return Err(LogError::new(LogErrorKind::Fenced, "committing", of, "the partition went to another member"));
        }
        Ok(())
    }
}
