//! Consumer groups: members hold leases in Redis, partitions are shared by rank, each change of hands is an epoch.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use flywheel_log::{
    EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, Topic, TopicPartition,
};
use redis::Script;

use crate::{connection::Connection, ids, redis_log::RedisLog};

/// A member that has not been heard of for so long is dead; its partitions go to the others.
const LEASE: Duration = Duration::from_secs(10);

/// Renews (or with lease 0 ends) a membership, drops the dead, notes who owns what; returns what is this member's.
/// KEYS: members, state. ARGV: member, lease in ms, partitions; and to commit: partition, epoch (-1: any), id.
const SYNC: &str = r"
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if tonumber(ARGV[2]) > 0 then redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
else redis.call('ZREM', KEYS[1], ARGV[1]) end
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
local mine = {}
for p = 0, tonumber(ARGV[3]) - 1 do
  local owner = #members > 0 and members[p % #members + 1] or ''
  local epoch = redis.call('HGET', KEYS[2], 'epoch:' .. p) or '0'
  if owner ~= (redis.call('HGET', KEYS[2], 'owner:' .. p) or '') then
    epoch = tostring(redis.call('HINCRBY', KEYS[2], 'epoch:' .. p, 1))
    redis.call('HSET', KEYS[2], 'owner:' .. p, owner)
  end
  if owner == ARGV[1] then
    if ARGV[4] == tostring(p) and (ARGV[5] == '-1' or ARGV[5] == epoch) then
      redis.call('HSET', KEYS[2], 'offset:' .. p, ARGV[6])
      return {{'done', '', ''}}
    end
    table.insert(mine, {tostring(p), epoch, redis.call('HGET', KEYS[2], 'offset:' .. p) or ''})
  end
end
if ARGV[4] then return {} end
return mine";

/// Partition, epoch, committed id or nothing.
type Share = Vec<(String, String, String)>;

#[derive(Debug, Clone)]
struct Seat {
    connection: Arc<Connection>,
    key: String,
    topic: Topic,
    partitions: u32,
    id: String,
}

impl Seat {
    async fn sync(&self, operation: &'static str, lease: Duration, commit: &[String]) -> Result<Share, LogError> {
        let script = Script::new(SYNC);
        let mut call = script.prepare_invoke();
        call.key(format!("{}:members", self.key)).key(&self.key);
        call.arg(&self.id).arg(lease.as_millis() as u64).arg(self.partitions);
        for arg in commit {
            call.arg(arg);
        }
        Ok(invoke!(self.connection, operation, &self.key, call))
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
    let seat = Seat { connection, key, topic: topic.clone(), partitions, id };
    // Made first: a join that is given up leaves by being dropped.
    let joined = RedisMember { log, seat, given: HashMap::new() };
    joined.seat.sync("joining", LEASE, &[]).await?;
    Ok(Box::new(joined))
}

impl Drop for RedisMember {
    fn drop(&mut self) {
        let seat = self.seat.clone();
        // Without a runtime, or when it ends first, the lease runs out.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { seat.sync("leaving", Duration::ZERO, &[]).await });
        }
    }
}

#[async_trait]
impl GroupMember for RedisMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        let share = self.seat.sync("asking", LEASE, &[]).await?;
        share.iter().map(|(partition, ..)| self.seat.lane(partition)).collect()
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let share = self.seat.sync("polling", LEASE, &[]).await?;
            // Noted only once nothing can fail or be given up any more: what is noted counts as given.
            let (mut out, mut bytes, mut given) = (Vec::new(), 0, Vec::new());
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
                given.push((lane.clone(), (epoch, position)));
                bytes += records.iter().map(|record| record.key.len() + record.value.len()).sum::<usize>();
                out.extend(records.into_iter().map(|record| (lane.clone(), record)));
            }
            self.given.extend(given);
            if !out.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(out);
            }
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + Duration::from_millis(10))).await;
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        let epoch = self.given.get(of).map_or("-1", |(since, _)| since).to_owned();
        let done = self.seat.sync("committing", LEASE, &[of.partition.to_string(), epoch, ids::id_of(offset)]).await?;
        if done.is_empty() {
            // What it was given is another member's to do; should the partition come back, all of it comes again.
            self.given.remove(of);
            return Err(LogError::new(LogErrorKind::Fenced, "committing", of, "the partition went to another member"));
        }
        Ok(())
    }
}
