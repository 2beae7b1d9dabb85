//! Topics, appends, reads and trims.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, check_batch,
};
use parking_lot::RwLock;
use redis::Value;

use crate::{
    config::RedisConfig,
    connection::{Ask, Connection, Persistence},
    follow::Follower,
    group, ids, piece, scripts,
};

/// Entries that are numbered anew are looked for again so often by one call.
const ATTEMPTS: usize = 3;
/// No answer is broken off before it is longer than this.
const LEAST_BROKEN_OFF: usize = 4 << 20;

/// A log on a Redis server, see the crate's description.
#[derive(Debug)]
pub struct RedisLog {
    connection: Arc<Connection>,
    follower: Follower,
    prefix: String,
    /// Topics that were seen; none is ever deleted.
    known: RwLock<HashMap<Topic, u32>>,
    /// How large a record was on average when some were read last.
    usual_bytes: AtomicUsize,
    this: Weak<Self>,
}

impl RedisLog {
    /// Connects to what `url` says, see [`RedisConfig`].
    ///
    /// # Errors
    /// `InvalidData` for a URL that is none and for a wrong password, `Unavailable` if the server does not answer.
    pub async fn connect(url: &str) -> Result<Arc<Self>, LogError> {
        let config = RedisConfig::parse(url)
            .map_err(|error| LogError::new(LogErrorKind::InvalidData, "connecting to", "the event log", error))?;
        let prefix = config.prefix.clone();
        let connection = Arc::new(Connection::new(config)?);
        let follower = Follower::new(Arc::clone(&connection));
        let known = RwLock::default();
        let usual_bytes = AtomicUsize::new(64 << 10);
        let log = Arc::new_cyclic(|this| Self { connection, follower, prefix, known, usual_bytes, this: this.clone() });
        log.refresh("connecting to").await?;
        Ok(log)
    }

    /// The server's settings that [`EventLog::durability`] follows from, as of the last time it was connected to.
    pub fn persistence(&self) -> Persistence {
        self.connection.persistence()
    }

    /// The stream of a partition: where other programs write to and read from.
    pub fn stream_of(&self, of: &TopicPartition) -> String {
        self.keys(of).0
    }

    /// The name of this log, kept in the database beside the topics: made by whoever asks first, and gone with everything
    /// else when the database is emptied.
    ///
    /// # Errors
    /// If the server does not answer, or takes no writes.
    pub async fn identity(&self) -> Result<String, LogError> {
        let key = format!("{}:id", self.prefix);
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("SET").arg(&key).arg(uuid::Uuid::new_v4().to_string()).arg("NX").ignore();
        pipe.cmd("GET").arg(&key);
        let (id,): (String,) =
            self.connection.ask("asking for the name of", &"the event log", Ask::Pipeline(&pipe)).await?;
        Ok(id)
    }

    /// Server and prefix, as messages name them: without user and password.
    pub fn place(&self) -> String {
        let config = &self.connection.config;
        format!("{}?prefix={}", config.target(), config.prefix)
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
        command.arg(self.topics_key());
        let found: HashMap<String, u32> =
            self.connection.ask(operation, &"the event log", Ask::Command(&command)).await?;
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

    /// Waits until one of the places may have something new; at most until `until`, and may return early.
    pub(crate) async fn wait(&self, places: &[(TopicPartition, Position)], until: tokio::time::Instant) {
        let places: Vec<_> = places
            .iter()
            .map(|(lane, position)| {
                let after = match position {
                    Position::Start => "0-0".to_owned(),
                    Position::After(offset) => ids::id_of(*offset),
                };
                (self.keys(lane).0, after)
            })
            .collect();
        self.follower.wait(&places, until).await;
    }

    /// At most `count` entries after `position`; `None` if they are longer than `most_bytes`.
    async fn piece(
        &self,
        from: &TopicPartition,
        position: Position,
        count: usize,
        most_bytes: usize,
    ) -> Result<Option<Vec<StoredRecord>>, LogError> {
        let (stream, meta) = self.keys(from);
        let start = match position {
            Position::Start => "-".to_owned(),
            Position::After(offset) => format!("({}", ids::id_of(offset)),
        };
        let question = piece::question(&stream, &meta, &start, count);
        for _ in 0..ATTEMPTS {
            let Some(piece) = self.connection.piece(from, &question, most_bytes).await? else { return Ok(None) };
            LogError::check_trimmed(from, position, piece.trimmed.as_deref().and_then(ids::offset_of))?;
            match piece.first {
                Some(id) if piece.records.is_empty() => self.renumber("reading", from, &id).await?,
                _ => return Ok(Some(piece.records)),
            }
        }
        Err(odd("reading", from))
    }

    /// Gives the entry `first` (or, if it is empty, those at the end whose ids fit no offset) and all after it ids that
    /// fit. Only a stranger can have given an entry such an id.
    async fn renumber(&self, operation: &'static str, of: &TopicPartition, first: &str) -> Result<(), LogError> {
        let (stream, meta) = self.keys(of);
        let mut call = scripts::RENUMBER.prepare_invoke();
        call.key(stream).key(meta).arg(first).arg("");
        let n_entries: u64 = self.connection.ask(operation, of, Ask::Script(&call)).await?;
        tracing::warn!(partition = %of, first, n_entries, "another program's entries had ids beyond all offsets; they have others now");
        Ok(())
    }

    async fn found(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let (mut all, mut bytes, mut position): (Vec<StoredRecord>, usize, _) = (Vec::new(), 0, position);
        let most = limit.max_records.max(1);
        // By the size of what came before: an answer stays near the limit, and is broken off where it does not. Where it
        // cannot be broken off, little is asked for at first.
        let usual = self.usual_bytes.load(Relaxed).max(1);
        let mut count = if self.connection.bounds_pieces() { (limit.max_bytes / usual).max(16) } else { 16 };
        loop {
            let asked = count.min(most - all.len());
            let most_bytes =
                if asked == 1 { usize::MAX } else { LEAST_BROKEN_OFF.max(limit.max_bytes.saturating_mul(4)) };
            let Some(piece) = self.piece(from, position, asked, most_bytes).await? else {
                count = asked / 16 + 1;
                continue;
            };
            let got = piece.len();
            for record in piece {
                let more = record.key.len() + record.value.len();
                if bytes + more > limit.max_bytes && !all.is_empty() {
                    self.usual_bytes.store(bytes / all.len(), Relaxed);
                    return Ok(all);
                }
                bytes += more;
                position = Position::After(record.offset);
                all.push(record);
            }
            if got > 0 {
                self.usual_bytes.store(bytes / all.len(), Relaxed);
            }
            // What little may be missing is not worth another question.
            let missing = limit.max_bytes.saturating_sub(bytes);
            if got < asked || all.len() >= most || missing < limit.max_bytes / 8 {
                return Ok(all);
            }
            count = (missing / (bytes / all.len()).max(1)).clamp(1, asked * 8);
        }
    }
}

/// An id, and fields with their contents.
type Entries = Vec<(String, Vec<Value>)>;

fn odd(operation: &'static str, of: &TopicPartition) -> LogError {
    let why = "another program keeps adding entries whose ids are beyond all offsets (the year 2100, or 2097151 within a \
               millisecond); let it use `*` as the id";
    LogError::new(LogErrorKind::Unavailable, operation, of, why)
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
        let (known,): (u32,) = self.connection.ask("creating", topic, Ask::Pipeline(&pipe)).await?;
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
        let mut call = scripts::APPEND.prepare_invoke();
        call.key(stream).key(meta);
        for record in &records {
            call.arg(&record.key[..]).arg(&record.value[..]);
        }
        for _ in 0..ATTEMPTS {
            let id: Option<String> = self.connection.ask("appending", to, Ask::Script(&call)).await?;
            match id {
                Some(id) => {
                    return ids::offset_of(&id).ok_or_else(|| {
                        let why = format!("its newest id `{id}` fits no offset");
                        LogError::new(LogErrorKind::Corrupt, "appending", to, why)
                    });
                }
                None => self.renumber("appending", to, "").await?,
            }
        }
        Err(odd("appending", to))
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
            self.wait(&[(from.clone(), position)], until).await;
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        self.check("asking for the bounds of", of).await?;
        let (stream, meta) = self.keys(of);
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("XRANGE").arg(&stream).arg("-").arg("+").arg("COUNT").arg(1);
        pipe.cmd("XREVRANGE").arg(&stream).arg("+").arg("-").arg("COUNT").arg(1);
        pipe.cmd("HGET").arg(meta).arg("trimmed");
        for _ in 0..ATTEMPTS {
            let (first, last, trimmed): (Entries, Entries, Option<String>) =
                self.connection.ask("asking for the bounds of", of, Ask::Pipeline(&pipe)).await?;
            let trimmed = trimmed.as_deref().and_then(ids::offset_of);
            let end = |entries: &Entries| entries.first().map(|(id, _)| ids::offset_of(id));
            match (end(&first), end(&last)) {
                (Some(None), _) => self.renumber("asking for the bounds of", of, &first[0].0).await?,
                (_, Some(None)) => self.renumber("asking for the bounds of", of, "").await?,
                (first, last) => return Ok(Bounds { first: first.flatten(), last: last.flatten(), trimmed }),
            }
        }
        Err(odd("asking for the bounds of", of))
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.check("trimming", of).await?;
        let (stream, meta) = self.keys(of);
        let mut call = scripts::TRIM.prepare_invoke();
        call.key(&stream).key(meta).arg(ids::id_of(up_to));
        for _ in 0..ATTEMPTS {
            let answer: (Option<u64>, String) = self.connection.ask("trimming", of, Ask::Script(&call)).await?;
            match answer {
                (Some(_n_removed), _) => return Ok(()),
                (None, odd) => self.renumber("trimming", of, &odd).await?,
            }
        }
        Err(odd("trimming", of))
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
