//! Topics, appends, reads and trims.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, check_batch,
};
use parking_lot::RwLock;
use redis::{Client, Script, Value};

use crate::{connection::Connection, group, ids};

/// Ids rise whatever the server's clock does: the newest id, or the trimmed one of a stream that was deleted, is the floor.
const APPEND: &str = r"
local function parts(id) local ms, seq = string.match(id, '(%d+)-(%d+)'); return tonumber(ms), tonumber(seq) end
local ms, seq = 0, 0
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  for i = 1, #info, 2 do if info[i] == 'last-generated-id' then ms, seq = parts(info[i + 1]) end end
end
local trimmed = redis.call('HGET', KEYS[2], 'trimmed')
if trimmed then
  local tms, tseq = parts(trimmed)
  if tms > ms or (tms == ms and tseq > seq) then ms, seq = tms, tseq end
end
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if now > ms then ms, seq = now, -1 end
local id
for i = 1, #ARGV, 2 do
  seq = seq + 1
  if seq > 2097151 then ms, seq = ms + 1, 0 end
  id = string.format('%.0f-%.0f', ms, seq)
  redis.call('XADD', KEYS[1], id, 'key', ARGV[i], 'event', ARGV[i + 1])
end
return id";

/// The watermark is what was really removed, so that nobody is told of a loss that was none.
const TRIM: &str = r"
local last = redis.pcall('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', 1)
if last.err then return last end
if #last == 0 then return 0 end
local id = last[1][1]
local ms, seq = string.match(id, '(%d+)-(%d+)')
redis.call('HSET', KEYS[2], 'trimmed', id)
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))";

/// Pause between looks of a reader that waits.
const LOOK: Duration = Duration::from_millis(10);

/// A log on a Redis server, see the crate's description.
#[derive(Debug)]
pub struct RedisLog {
    connection: Arc<Connection>,
    prefix: String,
    /// Topics that were seen; none is ever deleted.
    known: RwLock<HashMap<Topic, u32>>,
    this: Weak<Self>,
}

impl RedisLog {
    /// Connects to `redis://[:password@]host:port/db?prefix=flywheel`.
    ///
    /// # Errors
    /// `InvalidData` for a URL that is none, `Unavailable` if the server does not answer.
    pub async fn connect(url: &str) -> Result<Arc<Self>, LogError> {
        let bad = |why: String| LogError::new(LogErrorKind::InvalidData, "connecting to", "the log's URL", why);
        let mut parsed = url::Url::parse(url).map_err(|error| bad(error.to_string()))?;
        let mut prefix = "flywheel".to_owned();
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "prefix" => prefix = value.into_owned(),
                other => return Err(bad(format!("`{other}` is not a setting; there is `prefix`"))),
            }
        }
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(bad("the prefix is empty or has a brace".to_owned()));
        }
        parsed.set_query(None);
        let client = Client::open(parsed.as_str()).map_err(|error| bad(error.to_string()))?;
        let connection = Arc::new(Connection::new(client));
        let log = Arc::new_cyclic(|this| Self { connection, prefix, known: RwLock::default(), this: this.clone() });
        log.refresh("connecting to").await?;
        Ok(log)
    }

    fn topics_key(&self) -> String {
        format!("{}:topics", self.prefix)
    }

    fn keys(&self, of: &TopicPartition) -> (String, String) {
        let stream = format!("{}:{{{}:{}}}", self.prefix, of.topic, of.partition);
        let meta = format!("{stream}:meta");
        (stream, meta)
    }

    async fn refresh(&self, operation: &'static str) -> Result<HashMap<Topic, u32>, LogError> {
        let mut command = redis::cmd("HGETALL");
        let found: HashMap<String, u32> = ask!(self.connection, operation, "redis", command.arg(self.topics_key()));
        let topics: HashMap<_, _> =
            found.into_iter().filter_map(|(name, n)| Some((Topic::try_from(name).ok()?, n))).collect();
        self.known.write().clone_from(&topics);
        Ok(topics)
    }

    async fn partitions(&self, operation: &'static str, topic: &Topic) -> Result<Option<u32>, LogError> {
        let known = self.known.read().get(topic).copied();
        Ok(if known.is_some() { known } else { self.refresh(operation).await?.get(topic).copied() })
    }

    async fn check(&self, operation: &'static str, of: &TopicPartition) -> Result<(), LogError> {
        let partitions = self.partitions(operation, &of.topic).await?;
        let there = partitions.is_some_and(|n| of.partition < n);
        if there { Ok(()) } else { Err(LogError::unknown_partition(operation, of)) }
    }

    /// At most `count` entries after `position`, and the watermark, at one moment.
    async fn piece(
        &self,
        from: &TopicPartition,
        position: Position,
        count: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let (stream, meta) = self.keys(from);
        let start = match position {
            Position::Start => "-".to_owned(),
            Position::After(offset) => format!("({}", ids::id_of(offset)),
        };
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HGET").arg(meta).arg("trimmed");
        pipe.cmd("XRANGE").arg(stream).arg(start).arg("+").arg("COUNT").arg(count);
        let (trimmed, entries): (Option<String>, Vec<(String, Vec<Value>)>) =
            ask!(self.connection, "reading", from, &pipe);
        LogError::check_trimmed(from, position, trimmed.as_deref().and_then(ids::offset_of))?;
        entries.into_iter().map(|(id, fields)| record(from, &id, fields)).collect()
    }

    async fn found(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let (mut all, mut bytes, mut position): (Vec<StoredRecord>, usize, _) = (Vec::new(), 0, position);
        let most = limit.max_records.max(1);
        // Small at first and by the size of what came: an answer stays near the limit whatever the records' sizes.
        let mut count = 16;
        loop {
            let asked = count.min(most - all.len());
            let piece = self.piece(from, position, asked).await?;
            let got = piece.len();
            for record in piece {
                bytes += record.key.len() + record.value.len();
                if bytes > limit.max_bytes && !all.is_empty() {
                    return Ok(all);
                }
                position = Position::After(record.offset);
                all.push(record);
            }
            if got < asked || all.len() >= most {
                return Ok(all);
            }
            count = ((limit.max_bytes.saturating_sub(bytes)) / (bytes / all.len()).max(1)).clamp(1, asked * 8);
        }
    }
}

fn record(of: &TopicPartition, id: &str, fields: Vec<Value>) -> Result<StoredRecord, LogError> {
    let refuse = |why: &str| LogError::new(LogErrorKind::InvalidData, "reading", of, format!("entry `{id}` {why}"));
    let offset =
        ids::offset_of(id).ok_or_else(|| refuse("has an id beyond 42 bits of milliseconds or 21 of sequence"))?;
    let (mut key, mut value) = (Bytes::new(), Bytes::new());
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(content))) = (fields.next(), fields.next()) {
        match &name[..] {
            b"key" => key = content.into(),
            // Without this field the value is empty: it does not decode, and becomes a dead letter with its position.
            b"event" => value = content.into(),
            _ => {}
        }
    }
    Ok(StoredRecord { offset, ingest_ms: ids::ms_of(offset), key, value })
}

#[async_trait]
impl EventLog for RedisLog {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        if partitions == 0 {
            return LogError::check_partitions(topic, 0, 0);
        }
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HSETNX").arg(self.topics_key()).arg(topic.as_str()).arg(partitions).ignore();
        pipe.cmd("HGET").arg(self.topics_key()).arg(topic.as_str());
        let (known,): (u32,) = ask!(self.connection, "creating", topic, &pipe);
        self.known.write().insert(topic.clone(), known);
        LogError::check_partitions(topic, known, partitions)
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        let mut topics: Vec<_> = self.refresh("listing").await?.into_iter().collect();
        topics.sort();
        Ok(topics)
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        check_batch(to, &records)?;
        self.check("appending", to).await?;
        let (stream, meta) = self.keys(to);
        let script = Script::new(APPEND);
        let mut call = script.prepare_invoke();
        call.key(stream).key(meta);
        for record in &records {
            call.arg(&record.key[..]).arg(&record.value[..]);
        }
        let id: String = invoke!(self.connection, "appending", to, call);
        ids::offset_of(&id).ok_or_else(|| {
            LogError::new(LogErrorKind::Corrupt, "appending", to, format!("its newest id `{id}` fits no offset"))
        })
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        self.check("reading", from).await?;
        let until = tokio::time::Instant::now() + limit.max_wait;
        loop {
            let found = self.found(from, position, limit).await?;
            if !found.is_empty() || tokio::time::Instant::now() >= until {
                return Ok(found);
            }
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + LOOK)).await;
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.check("asking for the bounds of", of).await?;
        let (stream, meta) = self.keys(of);
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("XRANGE").arg(&stream).arg("-").arg("+").arg("COUNT").arg(1);
        pipe.cmd("XREVRANGE").arg(&stream).arg("+").arg("-").arg("COUNT").arg(1);
        pipe.cmd("HGET").arg(meta).arg("trimmed");
        type Entries = Vec<(String, Vec<Value>)>;
        let (first, last, trimmed): (Entries, Entries, Option<String>) =
            ask!(self.connection, "asking for the bounds of", of, &pipe);
        let end = |entries: Entries| entries.first().and_then(|(id, _)| ids::offset_of(id));
        Ok(Bounds { first: end(first), last: end(last), trimmed: trimmed.as_deref().and_then(ids::offset_of) })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.check("trimming", of).await?;
        let (stream, meta) = self.keys(of);
        let script = Script::new(TRIM);
        let mut call = script.prepare_invoke();
        call.key(stream).key(meta).arg(ids::id_of(up_to));
        let _n_removed: u64 = invoke!(self.connection, "trimming", of, call);
        Ok(())
    }

    async fn join(&self, topic: &Topic, name: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        let partitions = self.partitions("joining", topic).await?;
        let partitions = partitions.ok_or_else(|| LogError::unknown_topic("joining", topic))?;
        let log = self.this.upgrade().expect("a method runs on a log that is alive");
        let key = format!("{}:{{{topic}}}:group:{name}", self.prefix);
        group::join(log, Arc::clone(&self.connection), key, topic, partitions, member).await
    }

    fn durability(&self) -> Durability {
        self.connection.durability()
    }
}
